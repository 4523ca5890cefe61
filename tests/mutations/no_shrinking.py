"""A pytest plugin for scripts/mutate: any failing example will do, it need not be the smallest."""

from hypothesis import Phase, settings

settings.register_profile("mutate", phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("mutate")
