VERSION = "v1"

run lambda { |env|
  if env["PATH_INFO"] == "/slow"
    sleep env["QUERY_STRING"][/ms=(\d+)/, 1].to_f / 1000
  end
  [200, { "content-type" => "text/plain" }, ["hello from puma #{VERSION}\n"]]
}
