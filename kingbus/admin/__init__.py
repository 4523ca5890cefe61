"""The admin edge: operations on the node and the cluster, and their HTTP form.

`operations.Operations` is what can be done, `app.create_app` maps HTTP to it, `serving` listens,
`client.AdminClient` is the other end, for the command line.
"""
