"""Handler of the confchange files: the configuration changer alone."""

from kingbus.raft.confchange import Changer, Configuration
from kingbus.raft.errors import ConfChangeError
from kingbus.raft.progress import Progress, describe_progress
from tests.interaction.datadriven import Directive
from tests.interaction.operations import parse_operations


class ConfChangeFile:
    """One configuration, changed by every directive that succeeds."""

    def __init__(self) -> None:
        self._configuration = Configuration()
        self._progress: dict[int, Progress] = {}
        self._last_index = 0

    def __call__(self, directive: Directive) -> str:
        changer = Changer(
            self._configuration,
            self._progress,
            last_index=self._last_index,
            max_inflight_msgs=10,
        )
        # One more with every directive: `next` then tells when a progress was made.
        self._last_index += 1
        operations = parse_operations(directive.input)
        try:
            match directive.command:
                case "simple":
                    changed = changer.simple(operations)
                case "enter-joint":
                    changed = changer.enter_joint(
                        operations, auto_leave=directive.flag("autoleave")
                    )
                case "leave-joint":
                    if operations:
                        return "this command takes no input\n"
                    changed = changer.leave_joint()
                case _:
                    return "unknown command"
        except ConfChangeError as error:
            return f"{error}\n"
        self._configuration, self._progress = changed
        return f"{self._configuration}\n{describe_progress(self._progress)}"
