"""The names under which Ray exports series; ``test_ray_metrics.py`` reads them from a real node's port."""

from vlmprof.monitor.ray_metrics import Series

SUFFIX = {"counter": "_total", "gauge": "", "histogram": "_bucket"}


def exported_name(series: Series) -> str:
    return f"ray_{series.name}{SUFFIX[series.kind]}"
