{{/* A map with a second one laid over it, key by key down to the leaves; sprig's own merge drops 0, false and "". JSON. */}}
{{- define "sonotome.merged" -}}
{{- $merged := deepCopy (index . 0) -}}
{{- range $key, $value := index . 1 -}}
{{- $below := get $merged $key -}}
{{- if and (kindIs "map" $value) (kindIs "map" $below) -}}
{{- $value = include "sonotome.merged" (list $below $value) | fromJson -}}
{{- end -}}
{{- $_ := set $merged $key $value -}}
{{- end -}}
{{- toJson $merged -}}
{{- end -}}

{{/* An entry of the catalog with the defaults under it, and the transformer that it names under its own. Checked. JSON. */}}
{{- define "sonotome.model" -}}
{{- $model := include "sonotome.merged" (list .root.Values.defaults (get .root.Values.models .name)) | fromJson -}}
{{- $pod := pick .root.Values.defaults.predictor "resources" "scaling" "startupSeconds" "startupProbe" "tmpSize" -}}
{{- $transformer := get .root.Values.transformers ($model.transformer.name | default "") | default dict -}}
{{- $transformer = include "sonotome.merged" (list $pod $transformer) | fromJson -}}
{{- $_ := set $model "transformer" (include "sonotome.merged" (list $transformer $model.transformer) | fromJson) -}}
{{- include "sonotome.check" (dict "root" .root "name" .name "model" $model) -}}
{{- toJson $model -}}
{{- end -}}

{{/* Labels of every object. KServe copies those of an InferenceService into its pods, where a change of any makes a new
revision: so no versions here. */}}
{{- define "sonotome.labels" -}}
app.kubernetes.io/name: {{ quote .Chart.Name }}
app.kubernetes.io/instance: {{ quote .Release.Name }}
{{- end -}}

{{/* What KServe writes on the pods of one component. */}}
{{- define "sonotome.podLabels" -}}
serving.kserve.io/inferenceservice: {{ quote .name }}
component: {{ .role }}
{{- end -}}

{{- define "sonotome.tag" -}}
{{- .image.tag | default .root.Values.global.tag | default .root.Chart.AppVersion -}}
{{- end -}}

{{- define "sonotome.image" -}}
{{- with .root.Values.global.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ .image.repository }}:{{ include "sonotome.tag" . -}}
{{- end -}}

{{/* Passes PodSecurity `restricted`. On the container, because Knative takes none on the pod by default. */}}
{{- define "sonotome.securityContext" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
runAsNonRoot: true
{{- with .Values.global.podSecurity.runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .Values.global.podSecurity.runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* Whether a component, such as a predictor, runs on vLLM. */}}
{{- define "sonotome.isVllm" -}}
{{- eq (get (.env | default dict) "BACKEND" | default "") "vllm" -}}
{{- end -}}

{{/* Seconds for work in flight after SIGTERM in Standard mode, where nobody drains before it; Knative's queue-proxy does. */}}
{{- define "sonotome.preStopSeconds" -}}10{{- end -}}

{{/* A quantity of Kubernetes, such as 500m or 2Gi, as a number. */}}
{{- define "sonotome.number" -}}
{{- $units := dict "" 1 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf (regexFind "^[0-9.]+" .) (get $units (regexFind "[A-Za-z]*$" .)) -}}
{{- end -}}

{{/* A duration, such as 1h30m, in seconds. */}}
{{- define "sonotome.seconds" -}}
{{- $seconds := 0.0 -}}
{{- range regexFindAll "[0-9]+[hms]" . -1 -}}
{{- $seconds = addf $seconds (mulf (regexFind "^[0-9]+" .) (get (dict "h" 3600 "m" 60 "s" 1) (regexFind "[hms]$" .))) -}}
{{- end -}}
{{- $seconds -}}
{{- end -}}
