defmodule Hello.MixProject do
  use Mix.Project

  def project, do: [app: :hello, version: "0.1.0", releases: [hello: []]]

  # httpd is OTP's own, in inets.
  def application, do: [mod: {Hello, []}, extra_applications: [:inets, :logger]]
end
