"""Lengths of prompts in bounded memory: quantiles within 1 %, the longest ones exactly, with their lines."""

import heapq
import math
from dataclasses import dataclass, field

LONGEST_KEPT = 3
"""Number of the longest prompts whose lines are named."""
_STEP = math.log(1.02)


@dataclass(slots=True)
class _Bucket:
    count: int = 0
    tokens: int = 0

    @property
    def mean(self) -> float:
        return self.tokens / self.count


@dataclass(slots=True)
class Lengths:
    """Lengths in tokens, counted in buckets of 2 %: a few hundred of them, however many lengths there are.

    lengths = Lengths()
    lengths.add(1_200, line=1)
    lengths.quantile(0.95)
    # 1200
    """

    count: int = 0
    longest: list[tuple[int, int]] = field(default_factory=list)
    """Heap of the longest ones: tokens, and the line as a negative number."""
    _buckets: dict[int, _Bucket] = field(default_factory=dict)

    def add(self, tokens: int, line: int) -> None:
        """Count the prompt of a line; it has at least one token."""
        self.count += 1
        bucket = self._buckets.setdefault(int(math.log(tokens) / _STEP), _Bucket())
        bucket.count += 1
        bucket.tokens += tokens
        if len(self.longest) < LONGEST_KEPT:
            heapq.heappush(self.longest, (tokens, -line))
        else:
            heapq.heappushpop(self.longest, (tokens, -line))

    @property
    def most(self) -> int:
        """The greatest length."""
        return max(self.longest)[0]

    @property
    def longest_lines(self) -> list[int]:
        """Lines of the longest prompts, the longest first."""
        return [-line for _, line in sorted(self.longest, reverse=True)]

    def quantile(self, share: float) -> int:
        """Return the length that this share of the prompts (0 to 1) do not exceed, within 1 %."""
        wanted, seen = math.ceil(share * self.count), 0
        for _, bucket in sorted(self._buckets.items()):
            seen += bucket.count
            if seen >= wanted:
                return round(bucket.mean)
        return self.most

    def beyond(self, limit: int) -> int:
        """Return the tokens by which all longer prompts together exceed this length."""
        return sum(one.tokens - one.count * limit for one in self._buckets.values() if one.mean > limit)
