"""What all tests share: options, their order, and the settings of hypothesis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "tessera",
    deadline=None,  # a loaded machine is not a failure
    database=None,  # tests leave nothing in the tree; a failure prints how to repeat it
    print_blob=True,
)
hypothesis.settings.load_profile("tessera")


@pytest.fixture(autouse=True, scope="session")
def _cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave nothing in the user's profile database, and compile Yosys, which is WebAssembly, once for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("YOWASP_CACHE_DIR", str(Path(__file__).parent.parent / "build" / "yowasp"))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many random programs the soak test runs, see ``test_npu_soak.py``."""
    parser.addoption("--programs", type=int, default=200, help="random programs of each soak test")
    parser.addoption("--first-seed", type=int, default=1_000_000, help="seed of the first of them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts fast tests first, so that most mistakes show early: plain, then co-simulations, then slow ones."""
    ranks: dict[str, int] = {}
    for item in items:
        rank = 2 if item.get_closest_marker("slow") else 1 if item.get_closest_marker("cosim") else 0
        # Workers take whole files, so a file is as slow as its slowest test.
        ranks[item.nodeid.split("::")[0]] = max(rank, ranks.get(item.nodeid.split("::")[0], 0))
    items.sort(key=lambda item: ranks[item.nodeid.split("::")[0]])
