{{/* What `helm install` prints. Here and not in NOTES.txt, so that a test can render it. */}}
{{- define "sonotome.notes" -}}
{{- $enabled := list }}
{{- range $name, $entry := .Values.models }}{{ if $entry.enabled }}{{ $enabled = append $enabled $name }}{{ end }}{{ end }}
{{- if not $enabled -}}
No model is enabled: set models.<name>.enabled=true for one of {{ keys .Values.models | sortAlpha | join ", " }}.
{{- else -}}
They are up when READY says True:

  kubectl -n {{ .Release.Namespace }} get inferenceservices {{ join " " $enabled }}

GATEWAY is the address of your ingress gateway, such as http://127.0.0.1:8080
{{- if eq .Values.deploymentMode "Knative" }} (with Kourier: kubectl -n kourier-system get service kourier)
{{- end }}.
{{- if .Values.global.apiKeys.secretName }} KEY is one of the keys in the Secret {{ .Values.global.apiKeys.secretName }}.{{ end }}
{{- if and (eq .Values.deploymentMode "Standard") (not .Values.global.networkPolicy.enabled) }}
KServe's Ingress also leads to the predictors, past the transformers: global.networkPolicy.enabled=true closes that way.
{{- end }}
{{- range $name := $enabled }}
{{- $model := include "sonotome.model" (dict "root" $ "name" $name) | fromJson }}

{{ $name }}: {{ $model.description }}

  HOST=$(kubectl -n {{ $.Release.Namespace }} get inferenceservice {{ $name }} -o jsonpath='{.status.url}' | cut -d/ -f3)
  {{- include "sonotome.call" (dict "root" $ "name" $name "module" $model.predictor.module) | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The call of a service in NOTES.txt, by what its predictor is. */}}
{{- define "sonotome.call" -}}
{{- $key := not .root.Values.global.apiKeys.secretName | ternary "none" "$KEY" -}}
{{- $curl := printf "curl -H \"Host: $HOST\"%s $GATEWAY" (eq $key "none" | ternary "" " -H \"Authorization: Bearer $KEY\"") -}}
{{- if eq .module "predictors.whisper" -}}
{{ $curl }}/v1/audio/transcriptions -F file=@call.wav -F model={{ .name }}
python -c 'import openai, sys; gateway, host, key, path = sys.argv[1:]; client = openai.OpenAI(base_url=gateway + "/v1", api_key=key, default_headers={"Host": host}); print(client.audio.transcriptions.create(file=open(path, "rb"), model="{{ .name }}").text)' $GATEWAY $HOST {{ $key }} call.wav
{{- else if eq .module "predictors.kaldi_asr" -}}
{{ $curl }}/v1/audio/transcriptions -F file=@call.wav -F model={{ .name }}
# live: a WebSocket to $GATEWAY/ws with the header Host: $HOST
{{- else if eq .module "predictors.audio_caption" -}}
{{ $curl }}/process -H 'content-type: application/json' -d "{\"input_data\": \"$(base64 < call.wav | tr -d '\n')\"}"
{{- else if eq .module "predictors.ct_clip" -}}
{{ $curl }}/predict -F file=@series.zip
{{- else -}}
{{ $curl }}/v2/models/{{ .name }}
{{- end -}}
{{- end -}}
