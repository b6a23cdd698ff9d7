// A transaction with the RocketMQ 5 client for Node.js: npm install rocketmq-client-nodejs@1.0.8
// node order.js [HOST:PORT]
'use strict';

const { Producer, SimpleConsumer } = require('rocketmq-client-nodejs');

const base = { endpoints: process.argv[2] ?? '127.0.0.1:8081', namespace: '' };
const [COMMIT, ROLLBACK] = [1, 2];
const orders = new Set(); // stands for the database of the shop

async function main() {
  const checker = {
    // HalfMQ asks what became of a half message that nobody decided.
    async check(message) {
      return orders.has(message.body.toString()) ? COMMIT : ROLLBACK;
    },
  };
  const producer = new Producer({ ...base, topics: ['node-orders'], checker });
  await producer.startup();

  const transaction = producer.beginTransaction();
  const half = { topic: 'node-orders', body: Buffer.from('order 42'), tag: 'placed' };
  await producer.send(half, transaction); // durable, and nobody sees it
  orders.add('order 42'); // the local transaction
  await transaction.commit(); // now everybody does

  const subscriptions = new Map([['node-orders', 'placed']]);
  const consumer = new SimpleConsumer({ ...base, consumerGroup: 'node-cart', subscriptions });
  await consumer.startup();
  for (const message of await consumer.receive(16, 15_000)) {
    console.log('received', message.body.toString());
    await consumer.ack(message);
  }
  await consumer.shutdown();
  await producer.shutdown();
}

main().then(() => process.exit(0), error => {
  console.error(error);
  process.exit(1);
});
