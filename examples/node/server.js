// All that an app must do: listen on $PORT, and finish at SIGTERM.

const http = require('node:http');

const VERSION = 'v1';

const server = http.createServer(async (request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://localhost');
  if (pathname === '/slow') {
    await new Promise((done) => setTimeout(done, Number(searchParams.get('ms'))));
  }
  response.setHeader('Content-Type', 'text/plain');
  response.end(`hello from node ${VERSION}\n`);
});

// systemd and gapless pass the listening socket as descriptor 3.
const given = process.env.LISTEN_PID === String(process.pid);
server.listen(given ? { fd: 3 } : { port: process.env.PORT || 8888, host: '127.0.0.1' });

process.on('SIGTERM', () => {
  server.close();
  server.closeIdleConnections();
});
