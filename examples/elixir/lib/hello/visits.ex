defmodule Hello.Visits do
  @moduledoc "Counts the requests: all of this process, and those in flight. Read it from the console."
  use GenServer

  def start_link(_), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "How many were answered or are being answered."
  def count, do: :counters.get(counters(), 1)

  def during(answer) do
    counters = counters()
    :counters.add(counters, 1, 1)
    :counters.add(counters, 2, 1)

    try do
      answer.()
    after
      :counters.sub(counters, 2, 1)
    end
  end

  def wait_until_none_in_flight(milliseconds) do
    if milliseconds > 0 and :counters.get(counters(), 2) > 0 do
      Process.sleep(10)
      wait_until_none_in_flight(milliseconds - 10)
    end
  end

  @impl true
  def init(_) do
    :persistent_term.put(__MODULE__, :counters.new(2, []))
    {:ok, nil}
  end

  defp counters, do: :persistent_term.get(__MODULE__)
end
