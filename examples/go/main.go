// A server as Go makes it, with what systemd and gapless have for it: the listening socket, READY=1
// and SIGTERM. Without them it listens on $PORT, or on 8888.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const version = "v1"

func main() {
	listener, err := listen()
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", hello)
	server := &http.Server{}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		<-terminated
		// Every request that has begun is answered.
		if err := server.Shutdown(context.Background()); err != nil {
			log.Print(err)
		}
	}()
	if err := say("READY=1"); err != nil {
		log.Fatal(err)
	}
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-finished
}

func hello(out http.ResponseWriter, request *http.Request) {
	if request.URL.Path == "/slow" {
		ms, _ := strconv.Atoi(request.URL.Query().Get("ms"))
		time.Sleep(time.Duration(ms) * time.Millisecond)
	}
	fmt.Fprintf(out, "hello from go %s\n", version)
}

// The socket that was given, sd_listen_fds(3).
func listen() (net.Listener, error) {
	if os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		return net.FileListener(os.NewFile(3, "given"))
	}
	return net.Listen("tcp", "127.0.0.1:"+cmp.Or(os.Getenv("PORT"), "8888"))
}

// sd_notify(3); by hand there is nobody to hear it.
func say(what string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	notify, err := net.Dial("unixgram", path)
	if err != nil {
		return err
	}
	defer notify.Close()
	_, err = notify.Write([]byte(what))
	return err
}
