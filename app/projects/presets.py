"""Presets: the server's decisions on the requests of end users, for a project, a user token, or a thread.

A preset sets instructions, a model and tools, and limits what a request may name. A user token can neither read nor
change it. Requests with keys are not affected. Of several presets, the narrowest that sets instructions or a model wins
(project, token, thread). Lists of models and tools, and limits, are combined: every preset must permit a value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from pydantic import ConfigDict, Field, field_validator, model_validator

from app.http.bodies import WHOLE, Body, examples
from app.http.errors import Forbidden
from app.items.shapes import fields_of
from app.projects.settings import MOST_LISTED, ModelName, is_named, least

LONGEST_INSTRUCTIONS = 32_000
"""Characters."""

LARGEST_PRESET = 65_536
"""Bytes of JSON."""

MOST_TOOLS = 128

SYSTEM_ROLES = ("system", "developer")

CODE = "not_permitted_by_preset"

Named = tuple[str, str | None]


class PresetLimits(Body):
    """The highest values that a user's request may name. A request without a value is sent with the limit itself."""

    model_config = ConfigDict(frozen=True)

    max_output_tokens: Annotated[int, Field(ge=16, le=10**9), WHOLE] | None = None
    max_tool_calls: Annotated[int, Field(ge=1, le=10**9), WHOLE] | None = None
    thinking_budget: Annotated[int, Field(ge=0, le=10**9), WHOLE] | None = None


class UserPreset(Body):
    """A preset. A field without a value leaves it to the request of the user."""

    model_config = examples(
        {"instructions": "You help customers of a bookshop.", "model": "qwen3.5-plus"},
        {"models": ["qwen3.5-*"], "tools": [{"type": "web_search"}], "limits": {"max_output_tokens": 2000}},
    )

    instructions: Annotated[str, Field(min_length=1, max_length=LONGEST_INSTRUCTIONS)] | None = None
    model: ModelName | None = None
    models: Annotated[list[ModelName], Field(min_length=1, max_length=MOST_LISTED)] | None = None
    """Models that a request may name, beside `model`; `qwen3.5-*` for all that begin so."""
    tools: Annotated[list[dict[str, Any]], Field(max_length=MOST_TOOLS)] | None = None
    """Definitions of the tools that the model gets. A request may choose some of them by type and name."""
    limits: PresetLimits = PresetLimits()

    @field_validator("tools")
    @classmethod
    def _are_named(cls, tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        names = [_named(tool) for tool in tools or ()]
        if any(not kind or (kind == "function" and not name) for kind, name in names):
            raise ValueError("each tool needs its 'type', and a function its 'name'")
        if len(set(names)) != len(names):
            raise ValueError("two tools have the same type and name")
        return tools

    @model_validator(mode="after")
    def _is_small(self) -> "UserPreset":
        if len(orjson.dumps(self.stored())) > LARGEST_PRESET:
            raise ValueError(f"a preset has {LARGEST_PRESET} bytes at most")
        return self

    def stored(self) -> dict[str, Any]:
        """Return the preset as it is stored and shown to keys: without fields that have no value."""
        return self.model_dump(exclude_none=True, exclude_defaults=True)


@dataclass(frozen=True, slots=True)
class Presets:
    """The presets of one request, the widest first."""

    each: Sequence[UserPreset] = ()

    def __bool__(self) -> bool:
        return bool(self.each)

    def permits_model(self, asked: str, resolve: Callable[[str], str]) -> bool:
        """Return True if a user's request may name the model. Args: resolve: returns the model behind an alias."""
        lists = [preset.models for preset in self.each if preset.models is not None]
        if asked == (own := self._last("model")):
            return True
        names = (asked, resolve(asked)) if lists else ()
        return own is None if not lists else all(any(is_named(n, m) for n in names for m in each) for each in lists)

    def applied(
        self, body: Mapping[str, Any], known: Mapping[str, Any], default_model: str, resolve: Callable[[str], str]
    ) -> dict[str, Any]:
        """Return a request's parameters after applying the presets.

        Args:
            body: checked by its surface.
            known: the fields of that surface. Others would pass to the provider unseen.
            default_model: the model of a request that names none.
            resolve: returns the model behind an alias.

        Raises:
            Forbidden: naming a field that the presets do not permit.
        """
        found = dict(body)
        for name, value in body.items():
            if name not in known and value is not None:
                raise not_permitted(name)
        if (instructions := self._last("instructions")) is not None:
            if body.get("instructions") is not None:
                raise not_permitted("instructions")
            found["instructions"] = instructions
        asked = body.get("model")
        if asked is None:
            found["model"] = asked = self._last("model") or default_model
        if not self.permits_model(asked, resolve):
            raise not_permitted("model")
        tools = self._tools()
        if tools is not None:
            found["tools"] = self._chosen(body.get("tools"), tools)
            self._check_choice(body.get("tool_choice"), tools)
        for name in PresetLimits.model_fields:
            limit = least(*(getattr(preset.limits, name) for preset in self.each))
            if limit is not None and (given := body.get(name)) is not None and given > limit:
                raise not_permitted(name)
            if limit is not None and given is None:
                found[name] = limit
        # A model gets an effort or a budget, not both.
        limited = any(preset.limits.thinking_budget is not None for preset in self.each)
        if limited and fields_of(body.get("reasoning")).get("effort") is not None:
            raise not_permitted("reasoning.effort")
        return found

    def check_summary(self, model: str | None, instructions: str | None, resolve: Callable[[str], str]) -> None:
        """Refuse a user's request for a summary by a model, or with instructions, that the presets do not permit."""
        if instructions is not None and self._last("instructions") is not None:
            raise not_permitted("instructions")
        if model is not None and not self.permits_model(model, resolve):
            raise not_permitted("model")

    def check_input(self, value: Any, param: str) -> None:
        """Refuse system and developer messages of a user where a preset has instructions: they would override it.

        Args:
            value: a request's input, in any shape.
        """
        if self._last("instructions") is None or not isinstance(value, list):
            return
        for place, element in enumerate(value):
            if isinstance(element, dict) and element.get("role") in SYSTEM_ROLES:
                raise not_permitted(f"{param}[{place}].role")

    def _last(self, name: str) -> Any:
        return next((value for preset in reversed(self.each) if (value := getattr(preset, name)) is not None), None)

    def _tools(self) -> dict[Named, dict[str, Any]] | None:
        """Return the tools on all lists, as the narrowest list defines them; None where there is no list."""
        lists = [{_named(tool): tool for tool in preset.tools} for preset in self.each if preset.tools is not None]
        if not lists:
            return None
        return {name: tool for name, tool in lists[-1].items() if all(name in other for other in lists)}

    @staticmethod
    def _chosen(asked: Any, tools: Mapping[Named, dict[str, Any]]) -> list[dict[str, Any]]:
        if asked is None:
            return list(tools.values())
        for place, tool in enumerate(asked):
            own = tools.get(_named(tool))
            if own is None or not (set(tool) <= {"type", "name", "server_label"} or tool == own):
                raise not_permitted(f"tools[{place}]")
        return [tools[_named(tool)] for tool in asked]

    @staticmethod
    def _check_choice(asked: Any, tools: Mapping[Named, dict[str, Any]]) -> None:
        if isinstance(asked, dict):
            named = asked.get("tools") if asked.get("type") == "allowed_tools" else [asked]
            if not isinstance(named, list) or not all(isinstance(t, dict) and _named(t) in tools for t in named):
                raise not_permitted("tool_choice")


NO_PRESETS = Presets()


def not_permitted(param: str) -> Forbidden:
    return Forbidden(f"The app's preset does not permit this value of '{param}'. Leave it out.", param=param, code=CODE)


def _named(tool: Mapping[str, Any]) -> Named:
    """Return the identity of a tool: its type, and the name of a function or the label of an MCP server."""
    function = tool.get("function")
    name = function.get("name") if isinstance(function, dict) else tool.get("name") or tool.get("server_label")
    kind = tool.get("type")
    return kind if isinstance(kind, str) else "", name if isinstance(name, str) else None
