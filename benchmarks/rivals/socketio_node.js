// A rival: Socket.IO with acknowledgements, ioredis, `ws` with bufferutil; WebSocket transport only, no compression.

'use strict';
const http = require('node:http');
const { Server } = require('socket.io');
const common = require('./common.js');

const redis = common.openRedis();
const server = http.createServer();
const io = new Server(server, {
  transports: ['websocket'],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
});

io.use((socket, next) => {
  try {
    socket.data.user = common.readUser(socket.handshake.auth.token);
    next();
  } catch (error) {
    next(error);
  }
});

io.on('connection', async (socket) => {
  // The request of the handshake is not needed any more (from Socket.IO's page on memory).
  socket.conn.request = null;
  const user = socket.data.user;
  const keys = common.keysOf(user);
  socket.on('update', async (update, acknowledge) => {
    try {
      common.checkUpdate(update);
      const [seq, version] = await common.step(redis, keys, user, update, JSON.stringify(update));
      acknowledge({ t: 'ack', seq, version, saved: 0 });
    } catch (error) {
      socket.disconnect(true);
    }
  });
  socket.emit('welcome', common.makeWelcome(await common.acceptedOf(redis, keys)));
});

server.listen({ host: '127.0.0.1', port: 0, backlog: 4096 }, () => common.tellPort(server));
