// A rival: Colyseus, one room without a synchronised state, messages and acknowledgements by name.

'use strict';
const http = require('node:http');
const { Server, Room, matchMaker } = require('@colyseus/core');
const { WebSocketTransport } = require('@colyseus/ws-transport');
const common = require('./common.js');

const redis = common.openRedis();

class Walk extends Room {
  onCreate() {
    this.autoDispose = false;
    this.patchRate = null; // nothing is synchronised, so nothing has to be compared 20 times a second
    this.onMessage('update', async (client, update) => {
      try {
        common.checkUpdate(update);
        const { user, keys } = client.userData;
        const [seq, version] = await common.step(redis, keys, user, update, JSON.stringify(update));
        client.send('ack', { t: 'ack', seq, version, saved: 0 });
      } catch (error) {
        client.leave(4002);
      }
    });
  }

  onAuth(client, options) {
    return { user: common.readUser(options.token) };
  }

  async onJoin(client, options, auth) {
    const keys = common.keysOf(auth.user);
    client.userData = { user: auth.user, keys };
    client.send('welcome', common.makeWelcome(await common.acceptedOf(redis, keys)));
  }
}

const server = http.createServer();
const game = new Server({
  greet: false,
  gracefullyShutdown: false,
  transport: new WebSocketTransport({ server, perMessageDeflate: false }),
});
game.define('walk', Walk);
game.listen(0, '127.0.0.1', 4096).then(async () => {
  await matchMaker.createRoom('walk', {});
  common.tellPort(server);
});
