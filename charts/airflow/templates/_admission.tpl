{{/* What the expressions below speak of: the pod, or the one that is deleted, its first container, and their rights. As YAML. */}}
{{- define "airflow.podVariables" -}}
- name: pod
  expression: "request.operation == 'DELETE' ? oldObject : object"
- name: spec
  expression: variables.pod.spec
- name: container
  expression: variables.spec.containers[0]
- name: env
  expression: "has(variables.container.env) ? variables.container.env : []"
# The securityContext of the pod, and of the container, which may set the same anew.
- name: rights
  expression: variables.spec.securityContext
- name: own
  expression: variables.container.securityContext
{{- end -}}

{{/*
Rules as validations of a policy, as YAML: all but the first hold for what is made, and not for what is there.
  (dict "rules" "a list with expression and message, as YAML")
*/}}
{{- define "airflow.validations" -}}
{{- $validations := list -}}
{{- range $at, $rule := fromYamlArray .rules -}}
{{- $expression := ternary $rule.expression (printf "request.operation != 'CREATE' || (%s)" $rule.expression) (eq $at 0) -}}
{{- $validations = append $validations (dict "expression" $expression "message" $rule.message) -}}
{{- end -}}
{{- toYaml $validations -}}
{{- end -}}

{{/*
That a pod shares nothing of its node, and what Pod Security "restricted" asks for, which holds so in a namespace without its
label as well. As rules.
  (dict "pod" "a task pod")
*/}}
{{- define "airflow.restrictedRules" -}}
- expression: "!has(variables.spec.nodeName) && !(has(variables.spec.hostNetwork) && variables.spec.hostNetwork) && !(has(variables.spec.hostPID) && variables.spec.hostPID) && !(has(variables.spec.hostIPC) && variables.spec.hostIPC)"
  message: {{ .pod }} shares nothing of its node and does not choose it
- expression: "!has(variables.container.ports) || variables.container.ports.all(p, !has(p.hostPort))"
  message: {{ .pod }} has no port of its node
- expression: has(variables.spec.securityContext) && has(variables.container.securityContext) && has(variables.rights.runAsNonRoot) && variables.rights.runAsNonRoot && (!has(variables.own.runAsNonRoot) || variables.own.runAsNonRoot)
  message: {{ .pod }} is not root (runAsNonRoot)
- expression: "!(has(variables.rights.runAsUser) && variables.rights.runAsUser == 0) && !(has(variables.own.runAsUser) && variables.own.runAsUser == 0)"
  message: {{ .pod }} is not root (runAsUser)
- expression: has(variables.own.allowPrivilegeEscalation) && !variables.own.allowPrivilegeEscalation && !(has(variables.own.privileged) && variables.own.privileged) && !has(variables.own.procMount)
  message: {{ .pod }} has no privileges and gets none
- expression: has(variables.own.capabilities) && has(variables.own.capabilities.drop) && "ALL" in variables.own.capabilities.drop && !has(variables.own.capabilities.add)
  message: {{ .pod }} gives up all capabilities
- expression: has(variables.rights.seccompProfile) && variables.rights.seccompProfile.type == "RuntimeDefault" && !has(variables.own.seccompProfile)
  message: {{ .pod }} has the runtime's seccomp profile
- expression: "!has(variables.rights.appArmorProfile) && !has(variables.own.appArmorProfile) && !has(variables.rights.seLinuxOptions) && !has(variables.own.seLinuxOptions) && !has(variables.rights.sysctls)"
  message: {{ .pod }} sets nothing of AppArmor, SELinux and the kernel
{{- end -}}
