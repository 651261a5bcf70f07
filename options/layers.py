"""Option values by where they come from.

Lowest first: defaults, the model's own defaults, those a run or a graph was made with, what the
weight file shows, YAML, the command line.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from options.parser import OneLineParser

# What a YAML file cannot say.
NOT_READ = ("config", "local_rank", "is_train")
# What the options of a run do not say to the next one that takes them as a template.
NOT_SAVED = (*NOT_READ, "continue_train", "name")
# Values that leave it to the model, or to the weight file, to decide.
UNDECIDED = (None, "auto")


@dataclass(frozen=True)
class Layer:
    """Option values of one place.

    Args:
        values: by Python name or flag spelling.
        source: what messages call the place.
        said: the user wrote them for this command. A name that does not exist is then a mistake,
            and what contradicts the weight file is refused; otherwise both give way.
    """
    values: dict[str, Any]
    source: str
    said: bool = True

    def by_name(self, parser: OneLineParser) -> dict[str, Any]:
        """The checked values by Python name.

        Raises:
            ValueError: an unknown name, or a value the flag would not accept.
        """
        known = parser.by_name()
        return dict(parser.from_yaml(name, value, self.source)
                    for name, value in self.values.items()
                    if name not in NOT_READ and (self.said or name in known))


def fill(parser: OneLineParser, layers: list[Layer]) -> dict[str, str]:
    """Make the layers' values defaults of the parser, later layers above earlier ones.

    Returns:
        By name, how the user wrote the values of layers that are `said`, for messages.
    """
    written = {}
    for layer in layers:
        values = layer.by_name(parser)
        parser.set_defaults(**values)
        if layer.said:
            written |= {name: f"{layer.source}: {name} {value}" for name, value in values.items()}
    return written
