{{/* Predictor or transformer of an InferenceService: scaling, then the pod. */}}
{{- define "sonotome.component" -}}
{{- $knative := eq .root.Values.deploymentMode "Knative" -}}
{{- $gpu := include "sonotome.gpuProfile" . | fromJson -}}
{{- $cacheClaim := (.component.fastStart | default dict).cacheClaim -}}
{{/* Of a container's own 64 MiB vLLM's processes, which are several on CPU too, do not start: they want 240 MiB at a time. */}}
{{- $sharedMemory := eq (include "sonotome.isVllm" .component) "true" -}}
{{- include "sonotome.scaling" . }}
timeout: {{ int .model.timeout }}
{{- with .root.Values.global.serviceAccount }}
serviceAccountName: {{ quote . }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false  # a Service named `http` would set HTTP_PORT
{{- with .root.Values.global.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ quote . }}
  {{- end }}
{{- end }}
{{- with $gpu.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $gpu.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $gpu.runtimeClassName }}
runtimeClassName: {{ quote . }}
{{- end }}
{{- if not $knative }}
terminationGracePeriodSeconds: {{ add (int .model.timeout) (include "sonotome.preStopSeconds" .) 5 }}
{{- end }}
{{- include "sonotome.weights.copy" . }}
containers:
  - name: kserve-container
    image: {{ include "sonotome.image" (dict "root" .root "image" .component.image) | quote }}
    imagePullPolicy: {{ quote .root.Values.global.pullPolicy }}
    command: [python, -m, {{ quote .component.module }}]
    args:
      - {{ printf "--model_name=%s" .name | quote }}
      - --http_port=8080
      - --workers=1  # else KServe passes its concurrency limit to a transformer
      - --enable_grpc={{ not $knative }}  # Knative has one port a pod
      {{- if eq .role "transformer" }}
      - --predictor_protocol=v2
      {{- end }}
    env:
      {{- include "sonotome.environment" . | trim | nindent 6 }}
    ports:
      {{- if $knative }}
      - {containerPort: 8080, protocol: TCP}
      {{- else }}
      - {name: http, containerPort: 8080, protocol: TCP}
      - {name: grpc, containerPort: 8081, protocol: TCP}
      {{- end }}
    {{- include "sonotome.probes" . | nindent 4 }}
    {{- if not $knative }}
    lifecycle:
      preStop:
        sleep: {seconds: {{ include "sonotome.preStopSeconds" . }}}  # until no proxy sends here any more
    {{- end }}
    resources:
      requests:
        {{- toYaml .component.resources.requests | nindent 8 }}
      limits:
        {{- toYaml .component.resources.limits | nindent 8 }}
        {{- with $gpu.resource }}
        {{ quote . }}: {{ int $.component.gpu.count | quote }}
        {{- end }}
    securityContext:
      {{- include "sonotome.securityContext" .root | nindent 6 }}
    volumeMounts:
      - {name: tmp, mountPath: /tmp}
      {{- if .root.Values.global.apiKeys.secretName }}
      - {name: api-keys, mountPath: /etc/sonotome/api-keys, readOnly: true}
      {{- end }}
      {{- if (.component.weights | default dict).image }}
      - {name: weights, mountPath: /mnt/models, readOnly: true}
      {{- end }}
      {{- if $sharedMemory }}
      - {name: shm, mountPath: /dev/shm}
      {{- end }}
      {{- if $cacheClaim }}
      - {name: cache, mountPath: /cache}
      {{- end }}
volumes:
  - name: tmp
    emptyDir: {sizeLimit: {{ quote .component.tmpSize }}}
  {{- with .root.Values.global.apiKeys }}
  {{- if .secretName }}
  - name: api-keys
    secret:
      secretName: {{ quote .secretName }}
      items: [{key: {{ quote .key }}, path: keys}]
  {{- end }}
  {{- end }}
  {{- if (.component.weights | default dict).image }}
  - name: weights
    emptyDir: {}
  {{- end }}
  {{- if $sharedMemory }}
  - name: shm
    emptyDir: {medium: Memory, sizeLimit: 2Gi}  # counts as memory once it is written to
  {{- end }}
  {{- with $cacheClaim }}
  - name: cache
    persistentVolumeClaim: {claimName: {{ quote . }}}
  {{- end }}
{{- end -}}

{{/* The profile of a component's GPUs, `{}` without any. JSON. */}}
{{- define "sonotome.gpuProfile" -}}
{{- if (.component.gpu | default dict).count -}}
{{- get .root.Values.gpuProfiles .component.gpu.profile | toJson -}}
{{- else -}}
{}
{{- end -}}
{{- end -}}

{{- define "sonotome.probes" -}}
{{- $ready := printf "{path: \"/v2/models/%s/ready\", port: 8080}" .name -}}
{{- $standard := eq .root.Values.deploymentMode "Standard" -}}
{{- if or $standard .component.startupProbe -}}
startupProbe:
  httpGet: {{ $ready }}
  periodSeconds: 1
  failureThreshold: {{ int .component.startupSeconds }}
{{ end -}}
readinessProbe:
  httpGet: {{ $ready }}
  {{- if $standard }}
  periodSeconds: 5
  timeoutSeconds: 5
  {{- end }}{{/* Without a period Knative's queue-proxy asks every 50 ms until the first success: the quickest cold start. */}}
livenessProbe:
  httpGet: {path: /v2/health/live, port: 8080}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}

{{/* Weights out of an image. KServe's own ways need a storage initializer, image volumes or a container without limits. */}}
{{- define "sonotome.weights.copy" -}}
{{- with (.component.weights | default dict).image }}
initContainers:
  - name: weights
    image: {{ quote . }}
    imagePullPolicy: {{ quote $.root.Values.global.pullPolicy }}
    command: [cp, -r, /models/., /mnt/models]
    resources:
      requests: {cpu: 100m, memory: 64Mi}
      limits: {cpu: "1", memory: 256Mi}
    securityContext:
      {{- include "sonotome.securityContext" $.root | nindent 6 }}
    volumeMounts:
      - {name: weights, mountPath: /mnt/models}
{{- end }}
{{- end -}}
