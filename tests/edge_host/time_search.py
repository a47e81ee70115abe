"""Times the joint search on a large question: `python tests/edge_host/time_search.py`."""

from __future__ import annotations

from statistics import median

from seamline.edge_host.search import Wish, search
from seamline.kernels.bench import interleave
from seamline.runtime.profile import Link
from small_profiles import make_profile

WISH = Wish(
    "training",
    deadline=1.0,
    modes=("split", "local"),
    averaged=(1, 5, 10, 50),
    uploads=(1, 2, 5, 0),
    in_flight=(1, 2),
    ram=10**7,
)


def main() -> None:
    works = {}
    for residual in (False, True):
        for seed in range(3):
            profile = make_profile(seed, units=30, exits=3, residual=residual)
            link = Link(1e6, 1e6, 0.01)
            name = f"{'residual' if residual else 'chain'} {seed}"
            looked = search(profile, link, WISH).looked_at
            works[f"{name}, {looked} candidates"] = lambda p=profile, k=link: search(p, k, WISH)
    times = interleave(works, 30)
    for name, time in times.items():
        print(f"{name}: {time.us / 1e3:.2f} ms least, {time.us_median / 1e3:.2f} ms median")
    print(f"median of all {median(t.us_median for t in times.values()) / 1e3:.2f} ms")


if __name__ == "__main__":
    main()
