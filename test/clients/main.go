// stream moves bytes through the streaming server with Kubernetes' own client library, and says how fast.
//
//	stream [-websocket] exec-out URL            reads the command's output to its end
//	stream [-websocket] exec-in URL BYTES       sends so many zeros to the command's input
//	stream [-websocket] attach-out URL BYTES    says "go", and reads so many bytes of a container's output
//	stream [-websocket] forward-out URL PORT    reads a connection to its end
//	stream [-websocket] forward-in URL PORT BYTES
//	                                            sends so many zeros, and waits for the other side's end
//
// It prints one line: the bytes and the seconds.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

var (
	websocket = flag.Bool("websocket", false, "over WebSocket instead of SPDY")
	errEnough = errors.New("enough")
)

// counter counts what is written to it, up to a limit, and notes when the first bytes came.
type counter struct {
	bytes, limit int64
	first        time.Time
}

func (c *counter) Write(p []byte) (int, error) {
	if c.bytes == 0 {
		c.first = time.Now()
	}
	c.bytes += int64(len(p))
	if c.limit > 0 && c.bytes >= c.limit {
		return len(p), errEnough
	}
	return len(p), nil
}

// zeros gives so many zeros.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	z.left -= n
	clear(p[:n])
	return int(n), nil
}

func executor(address string) (remotecommand.Executor, error) {
	config := &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if *websocket {
		return remotecommand.NewWebSocketExecutor(config, "GET", address)
	}
	return remotecommand.NewSPDYExecutor(config, "POST", parsed)
}

func command(kind, address string, limit int64) (int64, time.Duration, error) {
	exec, err := executor(address)
	if err != nil {
		return 0, 0, err
	}
	out := &counter{limit: limit}
	options := remotecommand.StreamOptions{Stdout: out}
	start := time.Now()
	if kind == "exec-in" {
		out.limit = 0
		input := &zeros{left: limit}
		options.Stdin = input
		err = exec.StreamWithContext(context.Background(), options)
		took := time.Since(start)
		// A server that ends the command early would look fast.
		if err == nil && input.left > 0 {
			err = fmt.Errorf("the command has ended with %d of %d bytes not sent", input.left, limit)
		}
		return limit, took, err
	}
	if kind == "attach-out" {
		// What is enough ends the copy, but not the session.
		ctx, cancel := context.WithCancel(context.Background())
		silence, _ := io.Pipe()
		options.Stdin = io.MultiReader(strings.NewReader("go\n"), silence)
		options.Stdout = writer(func(p []byte) (int, error) {
			n, err := out.Write(p)
			if err != nil {
				cancel()
			}
			return n, err
		})
		err = exec.StreamWithContext(ctx, options)
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		return out.bytes, time.Since(out.first), err
	}
	err = exec.StreamWithContext(context.Background(), options)
	return out.bytes, time.Since(out.first), err
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

func dial(address string) (httpstream.Connection, error) {
	config := &rest.Config{TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	var dialer httpstream.Dialer
	if *websocket {
		dialer, err = portforward.NewSPDYOverWebsocketDialerForStreaming(parsed, config)
	} else {
		var transport http.RoundTripper
		var upgrader spdy.Upgrader
		transport, upgrader, err = spdy.RoundTripperFor(config)
		if err == nil {
			dialer = spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, "POST", parsed)
		}
	}
	if err != nil {
		return nil, err
	}
	connection, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
	return connection, err
}

func forward(kind, address, port string, limit int64) (int64, time.Duration, error) {
	connection, err := dial(address)
	if err != nil {
		return 0, 0, err
	}
	defer connection.Close()
	headers := http.Header{}
	headers.Set("port", port)
	headers.Set("requestID", "0")
	headers.Set("streamType", "error")
	failure, err := connection.CreateStream(headers)
	if err != nil {
		return 0, 0, err
	}
	failure.Close()
	headers.Set("streamType", "data")
	data, err := connection.CreateStream(headers)
	if err != nil {
		return 0, 0, err
	}
	go func() {
		if text, _ := io.ReadAll(failure); len(text) > 0 {
			fmt.Fprintln(os.Stderr, string(text))
			os.Exit(1)
		}
	}()
	out := &counter{}
	if kind == "forward-out" {
		data.Close()
		_, err = io.Copy(out, data)
		return out.bytes, time.Since(out.first), err
	}
	start := time.Now()
	if _, err = io.Copy(data, &zeros{left: limit}); err != nil {
		return 0, 0, err
	}
	data.Close()
	_, err = io.Copy(out, data)
	return limit, time.Since(start), err
}

func run() error {
	flag.Parse()
	arguments := flag.Args()
	if len(arguments) < 2 {
		return errors.New("which, and where?")
	}
	number := func(at int) int64 {
		if at >= len(arguments) {
			return 0
		}
		value, err := strconv.ParseInt(arguments[at], 10, 64)
		if err != nil {
			return 0
		}
		return value
	}
	var bytes int64
	var took time.Duration
	var err error
	switch kind := arguments[0]; kind {
	case "exec-out", "exec-in", "attach-out":
		bytes, took, err = command(kind, arguments[1], number(2))
	case "forward-out", "forward-in":
		if len(arguments) < 3 {
			return errors.New("to which port?")
		}
		bytes, took, err = forward(kind, arguments[1], arguments[2], number(3))
	default:
		err = fmt.Errorf("%s is not known", kind)
	}
	if err != nil {
		return err
	}
	fmt.Println(bytes, took.Seconds())
	return nil
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
