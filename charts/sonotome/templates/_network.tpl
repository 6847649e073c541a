{{- define "sonotome.namespaces" -}}
- namespaceSelector:
    matchExpressions:
      - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
{{- end -}}

{{/* Who may call a pod. With Knative every request comes from the gateway or the activator and goes to the queue-proxy, the
transformer's to its predictor too; without, a predictor hears its own transformer only. */}}
{{- define "sonotome.ingress" -}}
{{- $policy := .root.Values.global.networkPolicy -}}
{{- if eq .root.Values.deploymentMode "Knative" -}}
- from:
    {{- include "sonotome.namespaces" $policy.dataPlaneNamespaces | nindent 4 }}
  ports:  # queue-proxy: http, https, the autoscaler's figures
    - {port: 8012, protocol: TCP}
    - {port: 8112, protocol: TCP}
    - {port: 9090, protocol: TCP}
{{- else -}}
- from:
    {{- if eq .role "predictor" }}
    - podSelector:
        matchLabels:
          {{- include "sonotome.podLabels" (dict "name" .name "role" "transformer") | nindent 10 }}
    {{- else }}
    {{- include "sonotome.namespaces" $policy.dataPlaneNamespaces | nindent 4 }}
    {{- end }}
  ports:
    - {port: 8080, protocol: TCP}
    - {port: 8081, protocol: TCP}
{{- end }}
{{- if .root.Values.global.podMonitor.enabled }}
- from:
    {{- include "sonotome.namespaces" $policy.monitoringNamespaces | nindent 4 }}
  ports:
    - {port: 8080, protocol: TCP}
{{- end }}
{{- end -}}

{{/* Whom a pod may call. */}}
{{- define "sonotome.egress" -}}
{{- $policy := .root.Values.global.networkPolicy -}}
- ports:  # DNS, wherever its server is (a node's cache has an address of its own)
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- if eq .role "transformer" }}
- to:
    {{- if eq .root.Values.deploymentMode "Knative" }}
    {{- include "sonotome.namespaces" $policy.dataPlaneNamespaces | nindent 4 }}
    {{- else }}
    - podSelector:
        matchLabels:
          {{- include "sonotome.podLabels" (dict "name" .name "role" "predictor") | nindent 10 }}
    {{- end }}
{{- end }}
{{- if eq (include "sonotome.wantsInternet" .) "true" }}
- to:
    - ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8, 100.64.0.0/10, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]}
    - ipBlock: {cidr: "::/0", except: ["fc00::/7", "fe80::/10"]}
  ports:
    - {port: 80, protocol: TCP}
    - {port: 443, protocol: TCP}
{{- end }}
{{- with $policy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* A transformer fetches links; a predictor its weights, unless they are on a volume or in an image. */}}
{{- define "sonotome.wantsInternet" -}}
{{- if eq .role "transformer" -}}
{{- .root.Values.global.networkPolicy.allowLinks -}}
{{- else -}}
{{- $weights := .model.predictor.weights -}}
{{- not (or $weights.image (regexMatch "^(pvc|oci\\+native)://" $weights.storageUri)) -}}
{{- end -}}
{{- end -}}
