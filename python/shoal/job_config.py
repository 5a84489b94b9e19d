"""What a job is told about itself when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["JobConfig"]


@dataclass
class JobConfig:
    """Options of a job, for `shoal.init(job_config=...)`.

    Attributes:
        runtime_env: Surroundings of every worker of the job.
        ray_namespace: Where names of the job's actors count.
        metadata: Notes for people.
        default_actor_lifetime: Lifetime of actors that do not say; only ``"non_detached"``.

    Example:
        >>> from shoal.job_config import JobConfig
        >>> JobConfig(ray_namespace="garden").ray_namespace
        'garden'
    """

    runtime_env: dict[str, Any] | None = None
    ray_namespace: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    default_actor_lifetime: str = "non_detached"
    code_search_path: list[str] | None = None

    def __post_init__(self) -> None:
        if self.default_actor_lifetime not in ("non_detached",):
            raise NotImplementedError(
                "default_actor_lifetime can only be 'non_detached'; make each actor that shall "
                "outlive its job with lifetime='detached'"
            )
