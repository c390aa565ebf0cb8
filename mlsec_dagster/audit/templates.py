"""Where artifacts lie by convention: paths with `{names}` in them.

    template = Template("s3://ml-prod/models/{model}/v{version}/", "model")
    template.match(locate("s3://ml-prod/models/delay_model/v3/model.pkl"))   # Artifact("model", model="delay_model", version="3", …)

A name stands for one component of the path or a part of one, never for a slash and never for nothing, and each component holds one
name at most: there is one way only to read a path, so that nobody can choose a path that reads as another's. Matching takes time in
the length of the template.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, cast

import msgspec

from mlsec_dagster.audit.artifacts import Artifact, known_kind
from mlsec_dagster.audit.locations import Location, locate
from mlsec_dagster.errors import ConfigurationError

Kind = Literal["dataset", "model"]

_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")
_FIELDS: Final = ("asset", "partition", "model", "version", "environment")


class _Component(NamedTuple):
    """One component: text, or text around a name."""

    before: str
    name: str | None
    after: str

    @property
    def literal(self) -> int:
        """What makes it more special: text without a name comes first, then the longer text."""
        return 1 << 30 if self.name is None else len(self.before) + len(self.after)

    @property
    def shape(self) -> tuple[str, bool, str]:
        return (self.before, self.name is None, self.after)


class Template:
    """One template.

    Attributes:
        uri: As given.
        target: What it leads to: members of the artifact, with `{names}` in them.
        location: Store, container, and the components, names included.
        depth: How many components it has.
        shape: Two templates of one shape match the same paths.
        rank: Templates of one container are tried in this order, the most special first.
    """

    def __init__(self, uri: str, target: Kind | Artifact) -> None:
        """Reads a template.

        Args:
            uri: A URI as `locate` takes it, with `{names}` behind the container.
            target: "dataset" or "model", which takes `{asset}`, `{partition}`, `{model}`, `{version}` and `{environment}` for what they
                are called; or an `Artifact` whose texts are made of the names: `Artifact("dataset", asset="{layer}/{table}")`.

        Raises:
            ConfigurationError: It leads nowhere, two names share a component, a name comes twice, names tell nothing, or the target uses
            an unknown one or is no kind of artifact.
        """
        location = locate(uri)
        if location is None or "{" in location.container:
            raise ConfigurationError(
                f"The template {uri!r} leads nowhere: expected a URI with names in braces behind the bucket, "
                "such as 's3://ml-prod/models/{model}/{version}/'."
            )
        self.uri = uri
        self.location = location
        self._components = tuple(_component(uri, part) for part in location.parts)
        names = [each.name for each in self._components if each.name is not None]
        if len(set(names)) != len(names):
            raise ConfigurationError(f"The template {uri!r} has a name twice; use each once, for values that differ could not be told.")
        self.target = _target(target, names)
        self._texts = {field: text for field in _FIELDS if (text := cast("str | None", getattr(self.target, field))) is not None}
        if names and not self._texts and self.target.kind != "none":
            # What it matches would count as resolved, and nobody who asks for an artifact would find it.
            expected = ", ".join(f"{{{field}}}" for field in _FIELDS)
            raise ConfigurationError(
                f"The names of the template {uri!r} tell nothing of an artifact: expected one of {expected}, or an Artifact whose texts "
                'are made of them, such as Artifact("dataset", asset="{layer}/{table}").'
            )
        used = {name for text in self._texts.values() for name in _PLACEHOLDER.findall(text)}
        if not used <= set(names):
            raise ConfigurationError(f"The target of the template {uri!r} uses {sorted(used - set(names))}, which the template has not.")
        self.rank = (-len(self._components), *(-each.literal for each in self._components), uri)
        self._literals = tuple((place, each.before) for place, each in enumerate(self._components) if each.name is None)
        self._names = tuple(
            (place, each.before, each.name, each.after) for place, each in enumerate(self._components) if each.name is not None
        )
        self.shape = (location.store, location.container, tuple(each.shape for each in self._components))

        self.depth = len(self._components)
        self.first = self._components[0].before if self._components and self._components[0].name is None else None

    def match(self, location: Location) -> Artifact | None:
        """The artifact that a location lies in; None if it does not have this form. Store and container are not looked at."""
        parts = location.parts
        if len(parts) < self.depth:
            return None
        for place, text in self._literals:
            if parts[place] != text:
                return None
        values: dict[str, str] = {}
        for place, before, name, after in self._names:
            part = parts[place]
            if len(part) <= len(before) + len(after) or not part.startswith(before) or not part.endswith(after):
                return None
            values[name] = part[len(before) : len(part) - len(after)]
        filled = {field: _PLACEHOLDER.sub(lambda found: values[found[1]], text) for field, text in self._texts.items()}
        return Artifact(self.target.kind, **filled, by="template")


class Templates:
    """All templates, found by where they begin."""

    def __init__(self, templates: Mapping[str, Kind | Artifact]) -> None:
        """Reads templates.

        Raises:
            ConfigurationError: One is wrong, or two match the same paths: which of them is meant could not be told.
        """
        self.all = tuple(sorted((Template(uri, target) for uri, target in templates.items()), key=lambda each: each.rank))
        seen: dict[object, str] = {}
        for template in self.all:
            if template.shape in seen:
                raise ConfigurationError(
                    f"The templates {seen[template.shape]!r} and {template.uri!r} match the same paths; leave one out."
                )
            seen[template.shape] = template.uri
        # By their first component if that is text; under None those of a container that begin with a name.
        self._at: dict[tuple[str, str], dict[str | None, tuple[Template, ...]]] = {}
        for store, container in {(each.location.store, each.location.container) for each in self.all}:
            here = [each for each in self.all if (each.location.store, each.location.container) == (store, container)]
            self._at[store, container] = {
                first: tuple(each for each in here if each.first in (first, None)) for first in {each.first for each in here} | {None}
            }

    def match(self, location: Location) -> tuple[Artifact | None, int]:
        """What the most special template tells of a location, and how many components it has."""
        here = self._at.get(location[:2])
        if here is not None:
            parts = location.parts
            first = parts[0] if parts else None
            for template in here[first if first in here else None]:
                found = template.match(location)
                if found is not None:
                    return found, template.depth
        return None, 0


def _component(uri: str, part: str) -> _Component:
    found = _PLACEHOLDER.findall(part)
    if not found:
        if "{" in part or "}" in part:
            raise ConfigurationError(f"The template {uri!r} has braces around {part!r} that hold no name of small letters.")
        return _Component(part, None, "")
    if len(found) > 1:
        raise ConfigurationError(
            f"The template {uri!r} has two names in {part!r}; expected one at most, so that it can be read in one way."
        )
    before, _, after = part.partition("{" + found[0] + "}")
    return _Component(before, found[0], after)


def _target(target: Kind | Artifact, names: list[str]) -> Artifact:
    if isinstance(target, Artifact):
        return known_kind(target)
    if target not in ("dataset", "model"):
        raise ConfigurationError(f"A template leads to 'dataset', 'model' or an Artifact, not to {target!r}.")
    return msgspec.structs.replace(Artifact(target), **{name: "{" + name + "}" for name in names if name in _FIELDS})
