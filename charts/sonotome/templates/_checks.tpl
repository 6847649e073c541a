{{/* What the schema cannot say, refused in one sentence that begins with the value's path. */}}
{{- define "sonotome.check" -}}
{{- include "sonotome.check.name" . -}}
{{- include "sonotome.check.transformer" . -}}
{{- include "sonotome.check.nulls" . -}}
{{- include "sonotome.check.mode" . -}}
{{- include "sonotome.check.language" . -}}
{{- include "sonotome.check.weights" . -}}
{{- include "sonotome.check.gpu" . -}}
{{- include "sonotome.check.fastStart" . -}}
{{- range $role := list "predictor" "transformer" -}}
{{- $part := dict "root" $.root "component" (get $.model $role) "path" (printf "models.%s.%s" $.name $role) -}}
{{- include "sonotome.check.image" $part -}}
{{- include "sonotome.check.env" $part -}}
{{- include "sonotome.check.resources" $part -}}
{{- include "sonotome.check.scaling" $part -}}
{{- end -}}
{{- end -}}

{{/* 45: `<name>-transformer-00001`, the name of a revision, is a DNS label; `<name>-<namespace>` is one in KServe's addresses. */}}
{{- define "sonotome.check.name" -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" .name) -}}
{{- fail (printf "models.%s: a name is lower-case letters, digits and '-', with a letter first and no '-' last" .name) -}}
{{- end -}}
{{- $longest := min 45 (sub 62 (len .root.Release.Namespace)) | int -}}
{{- if gt (len .name) $longest -}}
{{- fail (printf "models.%s: the name has %d characters, in namespace %s it may have %d" .name (len .name) .root.Release.Namespace $longest) -}}
{{- end -}}
{{- end -}}

{{- define "sonotome.check.transformer" -}}
{{- $name := .model.transformer.name | default "" -}}
{{- if not (hasKey .root.Values.transformers $name) -}}
{{- fail (printf "models.%s.transformer.name is %s, which is none of transformers: %s" .name ($name | default "empty") (keys .root.Values.transformers | sortAlpha | join ", ")) -}}
{{- end -}}
{{- end -}}

{{/* Helm takes a value away that is set to null. */}}
{{- define "sonotome.check.nulls" -}}
{{- $paths := list "timeout" "canary" "predictor.weights.modelId" "predictor.weights.storageUri" "predictor.weights.image" "predictor.gpu" "predictor.fastStart" "predictor.env" -}}
{{- $pod := "image resources.requests.cpu resources.requests.memory resources.limits.cpu resources.limits.memory scaling.min scaling.max scaling.metric scaling.target scaling.cpuPercent startupSeconds startupProbe tmpSize" -}}
{{- range $role := list "predictor" "transformer" -}}
{{- range splitList " " $pod }}{{ $paths = append $paths (printf "%s.%s" $role .) }}{{ end -}}
{{- end -}}
{{- range $path := $paths -}}
{{- $at := $.model -}}
{{- range splitList "." $path -}}
{{- if kindIs "map" $at }}{{ $at = index $at . }}{{ end -}}
{{- end -}}
{{- if kindIs "invalid" $at -}}
{{- fail (printf "models.%s.%s has no value: null took its default away" $.name $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Silence would be answered in another language than speech. */}}
{{- define "sonotome.check.language" -}}
{{- if eq (include "sonotome.recognisesSpeech" .model.transformer) "true" -}}
{{- $predictors := dig "predictor" "env" "LANGUAGE_FORCE" "" .model | toString -}}
{{- $own := dig "transformer" "env" "LANGUAGE_FORCE" $predictors .model | toString -}}
{{- if ne $own $predictors -}}
{{- fail (printf "models.%s.transformer.env.LANGUAGE_FORCE is %s, the predictor's is %s: set models.%s.predictor.env.LANGUAGE_FORCE alone, both pods get it" .name ($own | default "empty") ($predictors | default "empty") .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sonotome.check.mode" -}}
{{- if eq .root.Values.deploymentMode "Knative" -}}
{{- if gt (int .model.timeout) (int .root.Values.global.maxTimeoutSeconds) -}}
{{- fail (printf "models.%s.timeout is %d, more than global.maxTimeoutSeconds %d: raise that together with max-revision-timeout-seconds of Knative's config-defaults" .name (int .model.timeout) (int .root.Values.global.maxTimeoutSeconds)) -}}
{{- end -}}
{{- else -}}
{{- range $key, $percent := .model.canary -}}
{{- if kindIs "float64" $percent -}}
{{- fail (printf "models.%s.canary.%s is set: deploymentMode Standard has no canary by percentage" $.name $key) -}}
{{- end -}}
{{- end -}}
{{- with .root.Values.global.networkPolicy -}}
{{- range $namespace := .enabled | ternary .dataPlaneNamespaces (list) -}}
{{- if has $namespace (list "knative-serving" "kourier-system") -}}
{{- fail (printf "global.networkPolicy.dataPlaneNamespaces has %s, from where nobody calls in deploymentMode Standard: name those of your ingress controller" $namespace) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sonotome.check.weights" -}}
{{- with .model.predictor.weights -}}
{{- $path := printf "models.%s.predictor.weights" $.name -}}
{{- if not (or .modelId .storageUri .image) -}}
{{- fail (printf "%s is empty: set modelId, storageUri or image" $path) -}}
{{- end -}}
{{- if and (hasPrefix "/" .modelId) (not (or .storageUri .image)) -}}
{{- fail (printf "%s.modelId is %s, a path at which nothing is mounted: set storageUri or image" $path .modelId) -}}
{{- end -}}
{{- if and .storageUri .image -}}
{{- fail (printf "%s has storageUri and image: set one of them" $path) -}}
{{- end -}}
{{- if hasPrefix "oci://" .storageUri -}}
{{- fail (printf "%s.storageUri: KServe mounts oci:// only after the start and PodSecurity restricted refuses it: use oci+native:// or weights.image" $path) -}}
{{- end -}}
{{- if and .storageUri (not (regexMatch "^(pvc|oci\\+native|gs|s3|hf|https?|hdfs|webhdfs)://." .storageUri)) -}}
{{- fail (printf "%s.storageUri is %s: KServe knows pvc, oci+native, gs, s3, hf, http, https, hdfs and webhdfs" $path .storageUri) -}}
{{- end -}}
{{- range $key, $image := hasPrefix "oci+native://" .storageUri | ternary (dict "storageUri" .storageUri) (dict "image" .image) -}}
{{- if and $image (not (regexMatch "[^/](:[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})$" $image)) -}}
{{- fail (printf "%s.%s is %s, which has no tag" $path $key $image) -}}
{{- end -}}
{{- if hasSuffix ":latest" $image -}}
{{- fail (printf "%s.%s has the tag latest, which no revision can be rolled back to" $path $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sonotome.check.gpu" -}}
{{- $device := .model.predictor.env.DEVICE | default "" -}}
{{- if and (hasPrefix "cuda" $device) (not .model.predictor.gpu.count) -}}
{{- fail (printf "models.%s.predictor.env.DEVICE is %s without a GPU: set gpu.profile and gpu.count" .name $device) -}}
{{- end -}}
{{- with .model.predictor.gpu -}}
{{- $path := printf "models.%s.predictor.gpu" $.name -}}
{{- $profiles := keys $.root.Values.gpuProfiles | sortAlpha | join ", " -}}
{{- if and .count (not .profile) -}}
{{- fail (printf "%s.count is %d without a profile: name one of %s" $path (int .count) $profiles) -}}
{{- end -}}
{{- if and .profile (not .count) -}}
{{- fail (printf "%s.profile is %s but count is 0: set how many GPUs, or no profile" $path .profile) -}}
{{- end -}}
{{- if and .profile (not (hasKey $.root.Values.gpuProfiles .profile)) -}}
{{- fail (printf "%s.profile is %s, which is none of gpuProfiles: %s" $path .profile $profiles) -}}
{{- end -}}
{{- if and (gt (int .count) 1) (ne (include "sonotome.isVllm" $.model.predictor) "true") -}}
{{- fail (printf "%s.count is %d: only env.BACKEND vllm shares a model among GPUs" $path (int .count)) -}}
{{- end -}}
{{- if and .count (eq $device "cpu") -}}
{{- fail (printf "models.%s.predictor.env.DEVICE is cpu, which leaves gpu.count %d without work: set DEVICE to cuda" $.name (int .count)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sonotome.check.fastStart" -}}
{{- $backend := .model.predictor.env.BACKEND | default "" -}}
{{- if and .model.predictor.fastStart.eager (hasKey .model.predictor.env "ENFORCE_EAGER") -}}
{{- fail (printf "models.%s.predictor.env.ENFORCE_EAGER and fastStart.eager are both set: keep one" .name) -}}
{{- end -}}
{{- range $key, $value := .model.predictor.fastStart -}}
{{- if and $value (ne $backend "vllm") -}}
{{- fail (printf "models.%s.predictor.fastStart.%s is set: it is for BACKEND vllm, and env.BACKEND is %s" $.name $key ($backend | default "empty")) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sonotome.check.image" -}}
{{- if not .component.module -}}
{{- fail (printf "%s.module is empty: name the Python module that the container runs" .path) -}}
{{- end -}}
{{- if not .component.image.repository -}}
{{- fail (printf "%s.image.repository is empty: name the image" .path) -}}
{{- end -}}
{{- if eq (include "sonotome.tag" (dict "root" .root "image" .component.image)) "latest" -}}
{{- fail (printf "%s.image has the tag latest, which no revision can be rolled back to" .path) -}}
{{- end -}}
{{- end -}}

{{/* The chart sets these itself, by flags or from other values, or Knative and KServe refuse them. */}}
{{- define "sonotome.check.env" -}}
{{- $elsewhere := dict
  "MODEL_ID" "weights" "STORAGE_URI" "weights.storageUri" "API_KEYS" "global.apiKeys" "API_KEYS_FILE" "global.apiKeys"
  "MODEL_NAME" "the entry's name" "REQUEST_TIMEOUT_SECONDS" "timeout" "PREDICTOR_HOST" "KServe" "TENSOR_PARALLEL_SIZE" "gpu.count" "HOST" "the chart" "HTTP_PORT" "the chart" "GRPC_PORT" "the chart" "ENABLE_GRPC" "the chart"
  "PORT" "Knative" "K_SERVICE" "Knative" "K_CONFIGURATION" "Knative" "K_REVISION" "Knative" "PROTOCOL" "KServe" "PYTHONPATH" "the image" -}}
{{- range $kind := list "env" "secretEnv" -}}
{{- range $name, $value := get $.component $kind | default dict -}}
{{- with get $elsewhere $name -}}
{{- fail (printf "%s.%s.%s cannot be set here: it comes from %s" $.path $kind $name .) -}}
{{- end -}}
{{- if and (eq $kind "secretEnv") (hasKey ($.component.env | default dict) $name) -}}
{{- fail (printf "%s.env.%s and secretEnv.%s are both set: keep one" $.path $name $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sonotome.check.resources" -}}
{{- range $name, $request := .component.resources.requests -}}
{{- $limit := get $.component.resources.limits $name -}}
{{- if gt (include "sonotome.number" $request | float64) (include "sonotome.number" $limit | float64) -}}
{{- fail (printf "%s.resources.requests.%s is %s, more than the limit %s" $.path $name $request $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The bounds are those of Knative's webhook (annotation_validation.go). */}}
{{- define "sonotome.check.scaling" -}}
{{- with .component.scaling -}}
{{- if gt (int .min) (int .max) -}}
{{- fail (printf "%s.scaling.min is %d, more than max %d" $.path (int .min) (int .max)) -}}
{{- end -}}
{{- if and .concurrency (eq .metric "concurrency") (gt (int .target) (int .concurrency)) -}}
{{- fail (printf "%s.scaling.target is %d, more than concurrency %d lets a pod have" $.path (int .target) (int .concurrency)) -}}
{{- end -}}
{{- if eq $.root.Values.deploymentMode "Knative" -}}
{{- $window := include "sonotome.seconds" (.window | default "60s") | float64 -}}
{{- if or (lt $window 6.0) (gt $window 3600.0) -}}
{{- fail (printf "%s.scaling.window is %s: Knative takes 6s to 1h" $.path .window) -}}
{{- end -}}
{{- if gt (include "sonotome.seconds" (.retention | default "") | float64) 3600.0 -}}
{{- fail (printf "%s.scaling.retention is %s: Knative takes 1h at most" $.path .retention) -}}
{{- end -}}
{{- else -}}
{{- if not .min -}}
{{- fail (printf "%s.scaling.min is 0: deploymentMode Standard cannot scale to zero, set 1 or more" $.path) -}}
{{- end -}}
{{- if ne .metric "concurrency" -}}
{{- fail (printf "%s.scaling.metric is %s: deploymentMode Standard scales by cpuPercent" $.path .metric) -}}
{{- end -}}
{{- if .concurrency -}}
{{- fail (printf "%s.scaling.concurrency is set: deploymentMode Standard cannot hold requests back" $.path) -}}
{{- end -}}
{{- range $key := list "window" "retention" -}}
{{- if get $.component.scaling $key -}}
{{- fail (printf "%s.scaling.%s is set: deploymentMode Standard has no scale-to-zero" $.path $key) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
