package main

import (
	"errors"

	"github.com/spf13/cobra"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	definitions "k8s.io/kubernetes/pkg/generated/openapi"
	"sigs.k8s.io/metrics-server/cmd/metrics-server/app/options"
	"sigs.k8s.io/metrics-server/pkg/api"
)

// newMetricsServerCommand serves what pods and nodes use, for kubectl top and autoscalers.
func newMetricsServerCommand() *cobra.Command {
	chosen := options.NewOptions()
	command := &cobra.Command{
		Use:  "metrics-server",
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := errors.Join(chosen.Validate()...); err != nil {
				return err
			}
			config, err := chosen.ServerConfig()
			if err != nil {
				return err
			}
			// Its own definitions have the names of an earlier apimachinery, with which the server does not start.
			names := openapi.NewDefinitionNamer(api.Scheme)
			config.Apiserver.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions.GetOpenAPIDefinitions, names)
			config.Apiserver.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions.GetOpenAPIDefinitions, names)
			server, err := config.Complete()
			if err != nil {
				return err
			}
			return server.RunUntil(genericapiserver.SetupSignalHandler())
		},
	}
	for _, flags := range chosen.Flags().FlagSets {
		command.Flags().AddFlagSet(flags)
	}
	return command
}
