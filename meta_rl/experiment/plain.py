"""Settings that are nested plain data, such as lists of mappings: a flag takes them as YAML."""

from typing import Annotated, Any, TypeAlias

from tyro.constructors import PrimitiveConstructorSpec

from meta_rl.experiment import strict_yaml

Plain: TypeAlias = Annotated[
    Any,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="YAML",
        instance_from_str=lambda words: strict_yaml.parse(words[0], f"the flag {words[0]!r}"),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [strict_yaml.write_line(value)],
    ),
]
"""Whatever YAML holds; the setting's own section checks it."""
