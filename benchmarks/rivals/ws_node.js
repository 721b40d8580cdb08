// A rival: `ws` on Node with ioredis and msgpackr; bufferutil unmasks, no compression.

'use strict';
const { WebSocketServer } = require('ws');
const { Packr } = require('msgpackr');
const common = require('./common.js');

const packr = new Packr({ useRecords: false });
const redis = common.openRedis();
const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  backlog: 4096,
  perMessageDeflate: false,
  handleProtocols: (offered) => (offered.has('wayhold.v1.msgpack') ? 'wayhold.v1.msgpack' : false),
});

server.on('connection', (socket) => {
  let user = null;
  let keys = null;
  socket.on('error', () => socket.terminate());
  socket.on('message', async (message) => {
    try {
      const frame = packr.unpack(message);
      if (user === null) {
        user = common.readUser(frame.token);
        keys = common.keysOf(user);
        socket.send(packr.pack(common.makeWelcome(await common.acceptedOf(redis, keys))));
      } else if (frame.t === 'update') {
        common.checkUpdate(frame);
        const [seq, version] = await common.step(redis, keys, user, frame, message);
        socket.send(packr.pack({ t: 'ack', seq, version, saved: 0 }));
      }
    } catch (error) {
      socket.close(1008, error.name);
    }
  });
});
server.on('listening', () => common.tellPort(server));
