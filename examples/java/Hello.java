import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

/** The HTTP server of the JDK: listens on $PORT, and finishes its requests at SIGTERM. */
public final class Hello {
    static final String VERSION = "v1";

    public static void main(String[] arguments) throws IOException {
        // Otherwise head and body go out apart, and the second waits for the client's ACK.
        System.setProperty("sun.net.httpserver.nodelay", "true");
        var port = Integer.parseInt(System.getenv().getOrDefault("PORT", "8888"));
        var address = new InetSocketAddress(InetAddress.getLoopbackAddress(), port);
        var server = HttpServer.create(address, 1024);
        var requests = Executors.newVirtualThreadPerTaskExecutor();
        server.setExecutor(requests);
        server.createContext("/", exchange -> answer(exchange, 0));
        server.createContext("/slow", exchange -> answer(exchange, milliseconds(exchange)));
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            requests.shutdown();
            try {
                // HttpServer.stop(10) would wait for ten seconds even when nothing is in flight.
                requests.awaitTermination(10, TimeUnit.SECONDS);
            } catch (InterruptedException ended) {
                Thread.currentThread().interrupt();
            }
            server.stop(0);
        }));
        server.start();
    }

    private static void answer(HttpExchange exchange, long wait) throws IOException {
        try (exchange) {
            Thread.sleep(wait);
            var body = ("hello from java, " + VERSION + "\n").getBytes();
            exchange.getResponseHeaders().set("Content-Type", "text/plain");
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
        } catch (InterruptedException ended) {
            Thread.currentThread().interrupt();
        }
    }

    /** Of /slow?ms=500 */
    private static long milliseconds(HttpExchange exchange) {
        var query = exchange.getRequestURI().getQuery();
        return query != null && query.matches("ms=\\d{1,6}") ? Long.parseLong(query.substring(3)) : 0;
    }
}
