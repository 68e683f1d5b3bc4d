defmodule Hello do
  @moduledoc "OTP's own HTTP server under a supervisor, behind gapless."
  use Application

  require Record

  # What httpd says of a request: #mod{} of inets/include/httpd.hrl.
  Record.defrecordp(:mod, Record.extract(:mod, from_lib: "inets/include/httpd.hrl"))

  @version "v1"

  @impl true
  def start(_type, _arguments) do
    children = [Hello.Visits, server()]
    Supervisor.start_link(children, strategy: :one_for_one, name: Hello.Supervisor)
  end

  @impl true
  def prep_stop(state) do
    # SIGTERM: OTP stops the children next; so first what is in flight.
    Hello.Visits.wait_until_none_in_flight(10_000)
    state
  end

  defp server do
    port = String.to_integer(System.get_env("PORT", "8888"))
    root = ~c"#{System.tmp_dir!()}"

    settings = [
      port: port,
      bind_address: {127, 0, 0, 1},
      server_name: ~c"hello",
      server_root: root,
      document_root: root,
      modules: [Hello],
      max_clients: 10_000,
      # gapless decides how long a connection may be idle.
      keep_alive_timeout: 3600
    ]

    %{id: :httpd, start: {:inets, :start, [:httpd, settings, :stand_alone]}}
  end

  @doc "httpd asks this for each request."
  def unquote(:do)(request) do
    Hello.Visits.during(fn ->
      uri = URI.parse(to_string(mod(request, :request_uri)))
      wait(uri)
      body = ~c"hello from elixir, #{@version}\n"
      head = [code: 200, content_type: ~c"text/plain", content_length: ~c"#{length(body)}"]
      {:proceed, [response: {:response, head, body}]}
    end)
  end

  defp wait(%URI{path: "/slow", query: "ms=" <> milliseconds}),
    do: Process.sleep(String.to_integer(milliseconds))

  defp wait(_), do: :ok
end
