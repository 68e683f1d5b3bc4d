// One version of the app. The next is version2.ts beside it, and starter.ts says which one runs.

const version = "v1";

const answer = () => new Response(`hello from bun, ${version}\n`);

// Ends with this version: the process that it belongs to ends.
const ticking = setInterval(() => console.log(`${version} ticks`), 60_000);

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.env.PORT ?? 8888),
  idleTimeout: 0, // gapless decides how long a connection may be idle, and how long an answer may take
  routes: {
    "/": answer,
    "/slow": async (request) => {
      await Bun.sleep(Number(new URL(request.url).searchParams.get("ms")));
      return answer();
    },
  },
});

// gapless has put the next version in place, or stops. Requests in flight are finished by this code.
process.on("SIGTERM", async () => {
  clearInterval(ticking);
  await server.stop();
  process.exit(0);
});
