{{/* The environment of a container: what the chart knows, the entry's own settings over it. Every value a string. */}}
{{- define "sonotome.environment" -}}
{{- $own := include "sonotome.environment.all" . | fromYaml -}}
{{- if eq .role "predictor" -}}
{{- $own = merge (include "sonotome.environment.weights" .component.weights | fromYaml) $own -}}
{{- $own = merge (include "sonotome.environment.vllm" .component | fromYaml) $own -}}
{{- end -}}
{{- range $name, $value := include "sonotome.merged" (list $own .component.env) | fromJson }}
- {name: {{ quote $name }}, value: {{ $value | quote }}}
{{- end }}
{{- range $name, $from := .component.secretEnv }}
- {name: {{ quote $name }}, valueFrom: {secretKeyRef: {name: {{ quote $from.secretName }}, key: {{ quote $from.key }}}}}
{{- end }}
{{- end -}}

{{/* Both pods give up 5 s before the mesh cuts the connection, so that the client gets a body that says why. */}}
{{- define "sonotome.environment.all" -}}
REQUEST_TIMEOUT_SECONDS: {{ sub (int .model.timeout) 5 | quote }}
HOME: /tmp
HF_HOME: /tmp/huggingface
{{- if .root.Values.global.apiKeys.secretName }}
API_KEYS_FILE: /etc/sonotome/api-keys/keys
{{- end }}
{{- if eq (include "sonotome.recognisesSpeech" .component) "true" }}
{{/* Knative cuts a live connection at the timeout, without a word: half a minute before, its client is told to come again. */}}
{{- if eq .root.Values.deploymentMode "Knative" }}
STREAM_SESSION_SECONDS: {{ max (sub (int .model.timeout) 30) (div (int .model.timeout) 2) | quote }}
{{- end }}
{{/* Silence is answered without the predictor, and its answers tell the forced language as well. */}}
{{- with .model.predictor.env.LANGUAGE_FORCE }}
LANGUAGE_FORCE: {{ . | quote }}
{{- end }}
{{- end }}
{{- if eq .root.Values.deploymentMode "Standard" }}
GRACE_SECONDS: {{ int .model.timeout | quote }}
{{- end }}
{{- end -}}

{{/* Whether a pod is the audio transformer with its pipeline of speech, the one by default: others lack the settings above. */}}
{{- define "sonotome.recognisesSpeech" -}}
{{- and (eq .module "transformers_pre.audio") (eq ((.env | default dict).PIPELINE | default "speech") "speech") -}}
{{- end -}}

{{- define "sonotome.environment.weights" -}}
{{- if or .storageUri .image -}}
MODEL_ID: /mnt/models
HF_HUB_OFFLINE: "1"
{{- else -}}
MODEL_ID: {{ quote .modelId }}
{{- end }}
{{- with .storageUri }}
STORAGE_URI: {{ quote . }}
{{- end }}
{{- end -}}

{{- define "sonotome.environment.vllm" -}}
{{- if .fastStart.eager }}
ENFORCE_EAGER: "true"
{{- end }}
{{- if .fastStart.cacheClaim }}
VLLM_CACHE_ROOT: /cache/vllm
TRITON_CACHE_DIR: /cache/triton
{{- end }}
{{- if gt (int .gpu.count) 1 }}
TENSOR_PARALLEL_SIZE: {{ int .gpu.count | quote }}
{{- end }}
{{- end -}}
