"""Checks of settings: their errors name the setting, what was given and what it may be."""

from math import inf, isfinite

from meta_rl.core.errors import UserError


def check_above_zero(settings: object, *names: str, where: str = "agent") -> None:
    """Refuse numbers that are not above 0, or infinite; None is no number."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not (value > 0 and isfinite(value)):
            bound = "finite" if value > 0 else "above 0"
            raise UserError(f"{where}.{name} must be {bound}, got {value}")


def check_at_least(least: int, settings: object, *names: str, where: str = "agent") -> None:
    """Refuse numbers below the least, or infinite."""
    for name in names:
        value = getattr(settings, name)
        if not least <= value < inf:
            bound = "finite" if value > least else f"at least {least}"
            raise UserError(f"{where}.{name} must be {bound}, got {value}")


def check_within_unit(settings: object, *names: str, where: str = "agent") -> None:
    """Refuse numbers outside [0, 1]."""
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value <= 1:
            raise UserError(f"{where}.{name} must be in [0, 1], got {value}")


def check_layers(settings: object, *names: str, where: str = "agent") -> None:
    """Refuse layers without units."""
    for name in names:
        sizes = getattr(settings, name)
        if any(size < 1 for size in sizes):
            raise UserError(f"{where}.{name} must all be at least 1, got {sizes}")
