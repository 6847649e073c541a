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

{{/* An entry of the catalog with the defaults under it, and the transformer that it names under its own. JSON. */}}
{{- define "sonotome.model" -}}
{{- $model := include "sonotome.merged" (list .root.Values.defaults (get .root.Values.models .name)) | fromJson -}}
{{- $transformer := get .root.Values.transformers $model.transformer.name | default dict -}}
{{- $_ := set $model "transformer" (include "sonotome.merged" (list $transformer $model.transformer) | fromJson) -}}
{{- toJson $model -}}
{{- end -}}

{{/* Labels of every object. KServe copies those of an InferenceService into its pods, where a change of any makes a new
revision: so no versions here. */}}
{{- define "sonotome.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What KServe writes on the pods of one component. */}}
{{- define "sonotome.podLabels" -}}
serving.kserve.io/inferenceservice: {{ .name }}
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

{{/* Seconds for work in flight after SIGTERM in Standard mode, where nobody drains before it; Knative's queue-proxy does. */}}
{{- define "sonotome.preStopSeconds" -}}10{{- end -}}
