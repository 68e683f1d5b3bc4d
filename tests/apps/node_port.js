// An ordinary web app on Node's own http, listening on $PORT; it has never heard of gapless.
//
// Answers as the strict client wants it: its version, the client's request id, digests (FNV-1a, 64
// bits) of what came and of what goes.
'use strict'

const http = require('node:http')

const version = process.env.APP_VERSION || `node-${Date.now()}`

function digest (data) {
  let total = 0xcbf29ce484222325n
  for (const byte of data) total = ((total ^ BigInt(byte)) * 0x100000001b3n) & 0xffffffffffffffffn
  return total.toString(16).padStart(16, '0')
}

http.createServer((request, response) => {
  const pieces = []
  request.on('data', piece => pieces.push(piece))
  request.on('end', () => {
    const received = Buffer.concat(pieces)
    const client = request.headers['x-client-id'] || ''
    const body = Buffer.from(`${version} ${client}\n${request.url}\n`)
    response.writeHead(200, {
      'X-App-Version': version,
      'X-App-Pid': process.pid,
      'X-Client-Id': client,
      'X-Received-Digest': digest(received),
      'X-Received-Bytes': received.length,
      'X-Body-Digest': digest(body),
      'Content-Length': body.length
    })
    response.end(body)
  })
}).listen(Number(process.env.PORT), '127.0.0.1')
