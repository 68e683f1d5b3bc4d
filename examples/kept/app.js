// Counts its visits, and goes on counting after a reload, a crash and a restart of gapless. Node can
// pass no file descriptor to another process, so what it keeps is a file in $RUNTIME_DIRECTORY, which
// is in memory and lives as long.

const fs = require("fs");
const http = require("http");
const path = require("path");

const file = path.join(process.env.RUNTIME_DIRECTORY || ".", "visits");
// One byte for each visit: an append is whole, though the next generation counts for a moment, too.
const visits = fs.openSync(file, "a");

const server = http.createServer((request, response) => {
  fs.writeSync(visits, ".");
  response.end(`${fs.fstatSync(visits).size}\n`);
});

const minute = setInterval(() => {
  console.log(`${fs.fstatSync(visits).size} visits so far`);
}, 60000);

// The end of this generation: no timer fires any more, and requests under way are finished.
process.on("SIGTERM", () => {
  clearInterval(minute);
  server.close();
  server.closeIdleConnections();
});

// A listening socket, if one was given: connections wait in it while no process is there.
const isGiven = process.env.LISTEN_PID === String(process.pid);
server.listen(isGiven ? { fd: 3 } : { host: "127.0.0.1", port: process.env.PORT || 8888 });
