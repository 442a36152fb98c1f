"""Registry: names to objects."""

from __future__ import annotations

import sys

import pytest

from nnunet_pt.core.errors import UnknownNameError
from nnunet_pt.core.registry import Registry


def test_objects_and_names() -> None:
    registry: Registry[int] = Registry("number", {"one": 1, "two": 2})
    assert registry["two"] == 2
    assert list(registry) == ["one", "two"]
    assert "one" in registry
    assert "three" not in registry
    assert 1 not in registry


def test_import_happens_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    registry: Registry[object] = Registry("function", {"hls": "colorsys:rgb_to_hls"})
    assert "hls" in registry
    assert "colorsys" not in sys.modules
    function = registry["hls"]
    assert callable(function)
    assert function.__name__ == "rgb_to_hls"
    assert registry["hls"] is function


def test_unknown_name_lists_and_suggests_and_imports_nothing() -> None:
    registry: Registry[object] = Registry("reader", {"SimpleITKIO": "nowhere:x", "NibabelIO": "nowhere:y"})
    with pytest.raises(UnknownNameError, match=r"(?s)no reader called 'simpleitkio'.*did you mean SimpleITKIO"):
        registry["simpleitkio"]
    with pytest.raises(UnknownNameError):
        registry["os:system"]
