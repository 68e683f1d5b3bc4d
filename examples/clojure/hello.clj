(ns hello
  "Jetty in an atom, as at the REPL; behind gapless nobody needs to restart it by hand."
  (:require [clojure.java.io :as io]
            [clojure.string :as string]
            [nrepl.server :as nrepl]
            [ring.adapter.jetty :as jetty])
  (:import (org.eclipse.jetty.server Server)
           (org.eclipse.jetty.server.handler StatisticsHandler)))

(def version "v1")

(defn greeting [] "hello from clojure")

(defn app [{:keys [uri query-string]}]
  (when (= uri "/slow")
    (Thread/sleep (parse-long (subs query-string (count "ms=")))))
  {:status 200
   :headers {"Content-Type" "text/plain"}
   :body (str (greeting) ", " version "\n")})

(defonce server (atom nil))

(defn- patient
  "A stop waits for the requests in flight, but not longer than this."
  [^Server jetty]
  (.setHandler jetty (doto (StatisticsHandler.) (.setHandler (.getHandler jetty))))
  (.setStopTimeout jetty 10000))

(defn start [port]
  (let [options {:host "127.0.0.1" :port port :join? false :max-threads 200
                 :max-idle-time 900000 :configurator patient}]
    ;; #'app and not app: what is redefined at the REPL answers the next request.
    (reset! server (jetty/run-jetty #'app options))))

(defn stop []
  (when-let [^Server jetty @server]
    (.stop jetty)
    (reset! server nil)))

(defn restart [port] (stop) (start port))

(defn- repl-socket
  "Of this process and of no other: the old and the new version run beside each other for a while."
  []
  (let [in-env #(System/getenv %)]
    (string/join "-" [(str (in-env "RUNTIME_DIRECTORY") "/nrepl")
                      (in-env "GAPLESS_GENERATION") (in-env "GAPLESS_WORKER")])))

(defn -main [& [port]]
  (start (parse-long (or port (System/getenv "PORT") "8888")))
  (when (System/getenv "RUNTIME_DIRECTORY")
    (let [path (repl-socket)]
      (io/delete-file path true)            ; of one that was killed
      (nrepl/start-server :socket path)))
  (.addShutdownHook (Runtime/getRuntime) (Thread. ^Runnable stop)))
