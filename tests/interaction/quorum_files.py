"""Handler of the quorum files: majorities and joint majorities alone."""

from kingbus.raft.quorum import INFINITE_INDEX, JointConfig, MajorityConfig
from tests.interaction.datadriven import Directive, DirectiveError


class QuorumFile:
    """Has no state between directives."""

    def __call__(self, directive: Directive) -> str:
        ids = directive.numbers("cfg")
        joint_values = directive.values("cfgj")
        zero = joint_values == ["zero"]
        joint_ids = [] if zero else directive.numbers("cfgj")
        config = JointConfig(MajorityConfig.of(ids), MajorityConfig.of(joint_ids))
        ordered = list(dict.fromkeys(ids + joint_ids))
        values = directive.values("idx" if directive.command == "committed" else "votes") or []
        if len(values) != len(ordered):
            raise DirectiveError(f"{len(values)} values for {len(ordered)} ids")
        given = {voter: value for voter, value in zip(ordered, values, strict=True) if value != "_"}
        match directive.command:
            case "committed":
                acknowledged = {voter: int(value) for voter, value in given.items()}
                return self._committed(config, acknowledged, joint=joint_values is not None)
            case "vote":
                if not set(given.values()) <= {"y", "n"}:
                    raise DirectiveError(f"unknown votes {given}")
                votes = {voter: value == "y" for voter, value in given.items()}
                if joint_values is None:
                    return str(config.incoming.vote_result(votes))
                result = config.vote_result(votes)
                assert JointConfig(config.outgoing, config.incoming).vote_result(votes) is result
                return str(result)
            case _:
                return "unknown command"

    @staticmethod
    def _committed(config: JointConfig, acknowledged: dict[int, int], *, joint: bool) -> str:
        if joint:
            index = config.committed_index(acknowledged.get)
            table = config.describe(acknowledged.get)
            swapped = JointConfig(config.outgoing, config.incoming)
            assert swapped.committed_index(acknowledged.get) == index
        else:
            index = config.incoming.committed_index(acknowledged.get)
            table = config.incoming.describe(acknowledged.get)
            for other in (config.incoming, MajorityConfig()):
                joined = JointConfig(config.incoming, other)
                assert joined.committed_index(acknowledged.get) == index
        return table + ("∞" if index == INFINITE_INDEX else str(index))
