defmodule Hello.Epmd do
  @moduledoc """
  Where a node is, without the daemon epmd: in a file beside the one that gapless made for the app.

  The old and the new version are two nodes at the same time. With epmd, it would be a process of the
  one that started first, and end with it.
  """

  # What net_kernel and inet_tcp_dist ask, see erl_epmd.

  def start_link, do: :ignore

  def register_node(name, port), do: register_node(name, port, :inet)

  def register_node(name, port, _family) do
    # A console has no name that anybody looks for.
    unless String.starts_with?(to_string(name), "rem-") do
      File.write!(path(name), to_string(port))
    end

    {:ok, :erlang.unique_integer([:positive])}
  end

  def port_please(name, host), do: port_please(name, host, :infinity)

  def port_please(name, _host, _timeout) do
    case File.read(path(name)) do
      {:ok, port} -> {:port, String.to_integer(port), 5}
      {:error, _} -> :noport
    end
  end

  def address_please(_name, _host, _family), do: {:ok, {127, 0, 0, 1}}

  def names(_host), do: {:error, :address}

  def listen_port_please(_name, _host), do: {:ok, 0}

  defp path(name), do: Path.join(System.fetch_env!("RUNTIME_DIRECTORY"), "node-#{name}")
end
