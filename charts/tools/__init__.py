"""Made from the chart: plain manifests, the schema's descriptions, the README's tables. Nothing that a pod runs."""
