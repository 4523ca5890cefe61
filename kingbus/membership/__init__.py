"""Who belongs to the cluster: members, their ids and addresses, and the changes to them. Pure."""
