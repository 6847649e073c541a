{{/* The environment of a container: what the chart knows, the entry's own settings over it. Every value a string. */}}
{{- define "sonotome.environment" -}}
{{- $own := include (printf "sonotome.environment.%s" .role) . | fromYaml -}}
{{- $all := include "sonotome.environment.all" . | fromYaml -}}
{{- range $name, $value := include "sonotome.merged" (list (merge $own $all) .component.env) | fromJson }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- define "sonotome.environment.all" -}}
HOME: /tmp
HF_HOME: /tmp/huggingface
{{- if .root.Values.global.apiKeys.secretName }}
API_KEYS_FILE: /etc/sonotome/api-keys/keys
{{- end }}
{{- if eq .root.Values.deploymentMode "Standard" }}
GRACE_SECONDS: {{ int .model.timeout | quote }}
{{- end }}
{{- end -}}

{{- define "sonotome.environment.predictor" -}}
{{- with .component.weights }}
{{- if or .storageUri .image }}
MODEL_ID: /mnt/models
HF_HUB_OFFLINE: "1"
{{- else if .modelId }}
MODEL_ID: {{ .modelId | quote }}
{{- end }}
{{- with .storageUri }}
STORAGE_URI: {{ quote . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The transformer gives up 5 s before the mesh cuts the connection, so that the client gets a body that says why. */}}
{{- define "sonotome.environment.transformer" -}}
REQUEST_TIMEOUT_SECONDS: {{ sub (int .model.timeout) 5 | quote }}
{{- end -}}
