package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// kernel is what iptables and ipset hold of ours.
type kernel struct {
	chains map[string][]string
	sets   map[string]ipSet
}

// read takes over what an earlier process left: until this one knows the cluster, that goes on to hold.
func (k *kernel) read() error {
	saved, err := piped("", "ipset", "save")
	if err != nil {
		return err
	}
	k.chains, k.sets = map[string][]string{}, map[string]ipSet{}
	for line := range strings.Lines(saved) {
		fields := strings.Fields(line)
		if len(fields) < 3 || !strings.HasPrefix(fields[1], ownPrefix) {
			continue
		}
		if fields[0] == "create" {
			k.sets[fields[1]] = ipSet{fields[2], map[string]bool{}}
		} else {
			k.sets[fields[1]].members[strings.Join(fields[2:], " ")] = true
		}
	}
	chains, err := piped("", "iptables-save", "-t", "mangle")
	for _, chain := range regexp.MustCompile(`(?m)^:(`+ownPrefix+`\S+)`).FindAllStringSubmatch(chains, -1) {
		k.chains[chain[1]] = nil
	}
	return err
}

// apply brings the kernel to the ruleset: members that come, then all rules at once, then members that go. In between both
// the old and the new restrictions hold.
func (k *kernel) apply(wanted ruleset) error {
	var added, removed strings.Builder
	for name, set := range wanted.sets {
		if _, found := k.sets[name]; !found {
			fmt.Fprintf(&added, "create %s %s -exist\n", name, set.kind)
		}
		for member := range set.members {
			if !k.sets[name].members[member] {
				fmt.Fprintf(&added, "add %s %s -exist\n", name, member)
			}
		}
		for member := range k.sets[name].members {
			if !set.members[member] {
				fmt.Fprintf(&removed, "del %s %s -exist\n", name, strings.TrimSuffix(member, " nomatch"))
			}
		}
	}
	for name := range k.sets {
		if _, found := wanted.sets[name]; !found {
			fmt.Fprintf(&removed, "destroy %s\n", name)
		}
	}
	if _, err := piped(added.String(), "ipset", "restore"); err != nil {
		return err
	}
	if !maps.EqualFunc(k.chains, wanted.chains, slices.Equal) {
		if _, err := piped(restore(k.chains, wanted.chains), "iptables-restore", "--wait", "--noflush"); err != nil {
			return err
		}
		for _, hook := range []string{"FORWARD", "INPUT"} {
			if _, err := piped("", "iptables", "--wait", "-t", "mangle", "-C", hook, "-j", policyChain); err != nil {
				if _, err := piped("", "iptables", "--wait", "-t", "mangle", "-I", hook, "-j", policyChain); err != nil {
					return err
				}
			}
		}
	}
	if _, err := piped(removed.String(), "ipset", "restore"); err != nil {
		return err
	}
	k.chains, k.sets = wanted.chains, wanted.sets
	return nil
}

// restore gives the input of iptables-restore: all of our chains anew, and those removed that are no more.
func restore(old, wanted map[string][]string) string {
	var text strings.Builder
	text.WriteString("*mangle\n")
	names := slices.Concat(slices.Collect(maps.Keys(old)), slices.Collect(maps.Keys(wanted)))
	slices.Sort(names)
	names = slices.Compact(names)
	for _, name := range names {
		fmt.Fprintf(&text, ":%s - [0:0]\n", name)
	}
	for _, name := range names {
		for _, rule := range wanted[name] {
			fmt.Fprintf(&text, "-A %s %s\n", name, rule)
		}
	}
	for _, name := range names {
		if _, found := wanted[name]; !found {
			fmt.Fprintf(&text, "-X %s\n", name)
		}
	}
	text.WriteString("COMMIT\n")
	return text.String()
}

// piped runs a program with this input and gives its output.
func piped(input string, program string, arguments ...string) (string, error) {
	command := exec.Command(program, arguments...)
	command.Stdin = strings.NewReader(input)
	var problem strings.Builder
	command.Stderr = &problem
	output, err := command.Output()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", program, strings.Join(arguments, " "), err, strings.TrimSpace(problem.String()))
	}
	return string(output), err
}

// addresses gives the address of each pod by its uid, as the network plugin keeps them in a folder: that is so before the
// first container of a pod starts, and a second before Kubernetes' API tells it.
func addresses(folder string) map[string]string {
	found := map[string]string{}
	files, _ := filepath.Glob(filepath.Join(folder, "*-eth0"))
	for _, file := range files {
		var kept struct {
			CniArgs [][2]string
			Result  struct{ IPs []struct{ Address string } }
		}
		content, err := os.ReadFile(file)
		if err != nil || json.Unmarshal(content, &kept) != nil || len(kept.Result.IPs) == 0 {
			continue // half written: the folder changes once more
		}
		for _, argument := range kept.CniArgs {
			if argument[0] == "K8S_POD_UID" {
				found[argument[1]], _, _ = strings.Cut(kept.Result.IPs[0].Address, "/")
			}
		}
	}
	return found
}

// endpoints gives the pods that have an address of their own and have not ended.
func endpoints(pods []*v1.Pod, addresses map[string]string) []endpoint {
	var found []endpoint
	for _, pod := range pods {
		ip := pod.Status.PodIP
		if ip == "" {
			ip = addresses[string(pod.UID)]
		}
		if ip == "" || pod.Spec.HostNetwork || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
			continue
		}
		ports := map[string]string{}
		for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			for _, port := range container.Ports {
				ports[port.Name+"/"+string(port.Protocol)] = fmt.Sprintf("%s:%d", strings.ToLower(string(port.Protocol)), port.ContainerPort)
			}
		}
		found = append(found, endpoint{pod.Namespace, ip, pod.Labels, ports})
	}
	return found
}

// enforce keeps the kernel at what the cluster's policies say, until the context ends.
func enforce(ctx context.Context, client kubernetes.Interface, results string) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	pods, namespaces := factory.Core().V1().Pods(), factory.Core().V1().Namespaces()
	policies := factory.Networking().V1().NetworkPolicies()
	changed := make(chan struct{}, 1)
	notice := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	for _, informer := range []cache.SharedIndexInformer{pods.Informer(), namespaces.Informer(), policies.Informer()} {
		if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { notice() }, UpdateFunc: func(any, any) { notice() }, DeleteFunc: func(any) { notice() },
		}); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(results, 0o700); err != nil {
		return err
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	if err := watcher.Add(results); err != nil {
		return err
	}
	go func() {
		for range watcher.Events {
			notice()
		}
	}()
	var held kernel
	if err := held.read(); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for {
		allPods, _ := pods.Lister().List(labels.Everything())
		allNamespaces, _ := namespaces.Lister().List(labels.Everything())
		allPolicies, _ := policies.Lister().List(labels.Everything())
		slices.SortFunc(allPolicies, func(a, b *networking.NetworkPolicy) int {
			return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
		})
		labelled := map[string]labels.Set{}
		for _, namespace := range allNamespaces {
			labelled[namespace.Name] = namespace.Labels
		}
		wanted, err := compile(allPolicies, labelled, endpoints(allPods, addresses(results)))
		if err == nil {
			err = held.apply(wanted)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "network-policy:", err)
			time.AfterFunc(time.Second, notice)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// newNetworkPolicyCommand enforces NetworkPolicies in the network namespace that it runs in, on pods behind one bridge.
func newNetworkPolicyCommand() *cobra.Command {
	var kubeconfig, results string
	command := &cobra.Command{
		Use:  "network-policy",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return enforce(genericapiserver.SetupSignalContext(), client, results)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&results, "results", "/var/lib/cni/results", "where the network plugin keeps what it gave to pods")
	return command
}
