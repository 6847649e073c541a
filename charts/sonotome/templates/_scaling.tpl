{{/* Replicas, metric and annotations of a component, by deployment mode. */}}
{{- define "sonotome.scaling" -}}
{{- $scaling := .component.scaling -}}
minReplicas: {{ int $scaling.min }}
maxReplicas: {{ int $scaling.max }}
{{- if eq .root.Values.deploymentMode "Standard" }}
scaleMetric: cpu
scaleTarget: {{ int $scaling.cpuPercent }}
{{- else }}
scaleMetric: {{ quote $scaling.metric }}
scaleTarget: {{ int $scaling.target }}
{{- with $scaling.concurrency }}
containerConcurrency: {{ int . }}
{{- end }}
{{- $percent := get .model.canary (eq .role "predictor" | ternary "trafficPercent" "transformerTrafficPercent") }}
{{- if kindIs "float64" $percent }}
canaryTrafficPercent: {{ int $percent }}
{{- end }}
{{- if eq .role "predictor" }}
labels:
  networking.knative.dev/visibility: cluster-local  # the public routes are the transformer's
{{- end }}
annotations:
  serving.knative.dev/progress-deadline: {{ add (int .component.startupSeconds) 600 }}s  # 600 s to find a node and pull
  {{- with $scaling.window }}
  autoscaling.knative.dev/window: {{ quote . }}
  {{- end }}
  {{- with $scaling.retention }}
  autoscaling.knative.dev/scale-to-zero-pod-retention-period: {{ quote . }}
  {{- end }}
{{- end }}
{{- end -}}
