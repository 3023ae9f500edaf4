{{/*
The volumes of an Airflow pod, beside `tmp`.
  (dict "root" $ "token" true "dags" true): with the service account's token, with the DAG files
*/}}
{{- define "airflow.volumes" -}}
- name: logs
  emptyDir: {}
- name: config
  configMap:
    name: {{ include "common.fullname" (dict "root" .root "component" "airflow-config") }}
- name: pods
  configMap:
    name: {{ include "common.fullname" (dict "root" .root "component" "airflow-pods") }}
{{- if .dags }}
- name: dags
  {{- if .root.Values.dags.persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ include "airflow.dagsClaim" .root }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- if .token }}
# The token as the kubelet would mount it, but for one container instead of the whole pod.
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
{{- end }}
{{- end -}}

{{/*
Where a container finds them. Only the DAG files can be written to: people copy new ones there.
*/}}
{{- define "airflow.volumeMounts" -}}
- name: logs
  mountPath: /opt/airflow/logs
- name: config
  mountPath: /etc/airflow
  readOnly: true
- name: pods
  mountPath: /etc/maestro
  readOnly: true
{{- if .dags }}
- name: dags
  mountPath: /opt/maestro/dags
  {{- with include "airflow.dagsSubPath" .root }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}
{{- if .token }}
- name: token
  mountPath: /var/run/secrets/kubernetes.io/serviceaccount
  readOnly: true
{{- end }}
{{- end -}}
