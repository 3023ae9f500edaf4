{{/*
The securityContext of a pod. The images run as 10001. A volume's files are handed to the group once: done at each start
it would take minutes on a large volume, and would open PostgreSQL's data to the group, which PostgreSQL refuses.
*/}}
{{- define "common.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/*
Where a pod may be placed: those of the fields that the values of a workload set. Where these know a spread and set none, the
pods of a component are spread over nodes and zones as far as there are such: one that is lost takes few of them along.
  (dict "root" $ "component" "mlflow" "values" .Values), without a component no spread by itself
*/}}
{{- define "common.scheduling" -}}
{{- if and .component (hasKey .values "topologySpreadConstraints") (not .values.topologySpreadConstraints) }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    # Those of a release before end while it is upgraded, and are no reason to go elsewhere.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "common.selectorLabels" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- $fields := pick .values "priorityClassName" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" -}}
{{- range $field, $value := $fields }}
{{- with $value }}
{{ toYaml (dict $field .) }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
What every pod of ours without a service-account token has: rights, placement, where images are pulled from. No service
links: a Service called "mlflow" would set MLFLOW_PORT, which MLflow takes for its own.
  (dict "root" $ "component" "mlflow" "values" .Values), no values for a pod that may run anywhere, no component for one that is
  alone
*/}}
{{- define "common.podDefaults" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with include "common.imagePullSecrets" . }}
{{ . }}
{{- end }}
securityContext:
  {{- include "common.podSecurityContext" . | nindent 2 }}
{{- include "common.scheduling" (dict "root" (.root | default .) "component" .component "values" (.values | default dict)) }}
{{- end -}}

{{/*
The volumes of a pod whose containers have common.containerDefaults. More may follow.
  (dict "root" $ "certificate" "redis"), and what common.tls.volumes takes; or $ itself
*/}}
{{- define "common.volumes" -}}
volumes:
  - name: tmp
    emptyDir: {}
  {{- with include "common.tls.volumes" (dict "root" (.root | default .) "certificate" .certificate "names" .names) }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/*
The volume `token`: that of the pod's service account, as the kubelet would mount it, but for one container instead of the
whole pod, at /var/run/secrets/kubernetes.io/serviceaccount.
*/}}
{{- define "common.tokenVolume" -}}
- name: token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - key: ca.crt
              path: ca.crt
      - downwardAPI:
          items:
            - path: namespace
              fieldRef:
                fieldPath: metadata.namespace
{{- end -}}

{{/*
Annotations of a pod by which Prometheus finds its metrics.
  (dict "port" 8000 "path" "/metrics"), which is the path where none is given
*/}}
{{- define "common.scraped" -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .port | quote }}
{{- with .path }}
prometheus.io/path: {{ . }}
{{- end }}
{{- end -}}
