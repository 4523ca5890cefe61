"""The clients that need nothing but Python and the servers; `scripts/clients` tries all of them."""

import pytest

from tests.clients.program import say
from tests.clients.readers import READERS, try_reader
from tests.clients.scene import Scene
from tests.clients.tools import MYSQLBINLOG, try_tool
from tests.support.installations import Installation
from tests.support.world import World

pytestmark = [pytest.mark.mysql, pytest.mark.slow]


def test_a_reader_of_rows_misses_nothing(world: World, modern: Installation) -> None:
    """python-mysql-replication in each way, over a killed leader: what it tells is the source's."""
    (reader,) = [each for each in READERS if each.name == "pymysqlreplication"]
    row = try_reader(reader, Scene(world, modern), say)
    assert row.is_good, (row.missing, row.cells)


@pytest.mark.thorough  # `scripts/clients` does the same
def test_every_remote_option_of_mysqlbinlog(world: World, modern: Installation) -> None:
    """Each prints of the relay what it prints of the source."""
    row = try_tool(MYSQLBINLOG, Scene(world, modern), say)
    assert row.is_good, (row.missing, row.cells, row.more)
