{{/* What the schema cannot say, refused in one sentence that begins with the value's path. */}}
{{- define "sonotome.check" -}}
{{- include "sonotome.check.name" . -}}
{{- include "sonotome.check.transformer" . -}}
{{- include "sonotome.check.mode" . -}}
{{- include "sonotome.check.weights" . -}}
{{- include "sonotome.check.gpu" . -}}
{{- range $role := list "predictor" "transformer" -}}
{{- $part := dict "root" $.root "component" (get $.model $role) "path" (printf "models.%s.%s" $.name $role) -}}
{{- include "sonotome.check.image" $part -}}
{{- include "sonotome.check.env" $part -}}
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
{{- if not (hasKey .root.Values.transformers .model.transformer.name) -}}
{{- fail (printf "models.%s.transformer.name is %s, which is none of transformers: %s" .name .model.transformer.name (keys .root.Values.transformers | sortAlpha | join ", ")) -}}
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
{{- end -}}
{{- end -}}

{{- define "sonotome.check.weights" -}}
{{- with .model.predictor.weights -}}
{{- $path := printf "models.%s.predictor.weights" $.name -}}
{{- if and .storageUri .image -}}
{{- fail (printf "%s has storageUri and image: set one of them" $path) -}}
{{- end -}}
{{- if hasPrefix "oci://" .storageUri -}}
{{- fail (printf "%s.storageUri: KServe mounts oci:// only after the start and PodSecurity restricted refuses it: use oci+native:// or weights.image" $path) -}}
{{- end -}}
{{- if and .storageUri (not (regexMatch "^(pvc|oci\\+native|gs|s3|hf|https?|hdfs|webhdfs)://." .storageUri)) -}}
{{- fail (printf "%s.storageUri is %s: KServe knows pvc, oci+native, gs, s3, hf, http, https, hdfs and webhdfs" $path .storageUri) -}}
{{- end -}}
{{- if and .image (not (regexMatch "(:[A-Za-z0-9_][A-Za-z0-9_.-]*|@sha256:[0-9a-f]{64})$" .image)) -}}
{{- fail (printf "%s.image is %s, which has no tag" $path .image) -}}
{{- end -}}
{{- if hasSuffix ":latest" .image -}}
{{- fail (printf "%s.image has the tag latest, which no revision can be rolled back to" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sonotome.check.gpu" -}}
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
  "MODEL_NAME" "the entry's name" "PREDICTOR_HOST" "KServe" "HTTP_PORT" "the chart" "GRPC_PORT" "the chart" "ENABLE_GRPC" "the chart"
  "PORT" "Knative" "K_SERVICE" "Knative" "K_CONFIGURATION" "Knative" "K_REVISION" "Knative" "PROTOCOL" "KServe" "PYTHONPATH" "the image" -}}
{{- range $name, $value := .component.env -}}
{{- with get $elsewhere $name -}}
{{- fail (printf "%s.env.%s cannot be set here: it comes from %s" $.path $name .) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sonotome.check.scaling" -}}
{{- with .component.scaling -}}
{{- if gt (int .min) (int .max) -}}
{{- fail (printf "%s.scaling.min is %d, more than max %d" $.path (int .min) (int .max)) -}}
{{- end -}}
{{- if and .concurrency (eq .metric "concurrency") (gt (int .target) (int .concurrency)) -}}
{{- fail (printf "%s.scaling.target is %d, more than concurrency %d lets a pod have" $.path (int .target) (int .concurrency)) -}}
{{- end -}}
{{- if eq $.root.Values.deploymentMode "Standard" -}}
{{- if not .min -}}
{{- fail (printf "%s.scaling.min is 0: deploymentMode Standard cannot scale to zero, set 1 or more" $.path) -}}
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
