"""Request rate of a gateway key, over all gateway processes: a token bucket in Redis, on its clock.

A script of our own and not the `limits` library: that asks a second time for the seconds to wait, and opens connections of its
own by a URL that it reads in its own way (Sentinel, TLS), beside those of `trivet_tasks.shared_state`.
"""

from importlib import resources

import redis

from trivet_tasks.shared_state import PREFIX

BUCKETS = f"{PREFIX}gateway:rate:"


class RequestRate:
    """Limits of requests a minute, by the name of a key. Safe to share between threads. One round trip a request.

    A bucket holds a minute's requests, so that many may come at once after a pause; it fills evenly.
    """

    def __init__(self, client: redis.Redis) -> None:
        source = (resources.files("trivet_routing") / "lua" / "key_rate.lua").read_text("utf-8")
        self._script = client.register_script(source)

    def take(self, name: str, per_minute: int) -> float:
        """Count a request if it may go now. Returns the seconds to wait before the next try; 0: it may go.

        Raises:
            redis.RedisError: the server is away.
        """
        return float(self._script(keys=[f"{BUCKETS}{name}"], args=[per_minute]))
