// A driver around the library for Node.js; see ../README.md.
'use strict';

const { createHash } = require('node:crypto');
const { createInterface } = require('node:readline');
const { ConsumeResult, FilterExpression, Producer, PushConsumer, SimpleConsumer } = require('rocketmq-client-nodejs');

const RESOLUTIONS = { UNKNOWN: 0, COMMIT: 1, ROLLBACK: 2 };
const TAG = 1;
const SQL = 2;
const clients = new Map();
const transactions = new Map();
const deliveries = new Map();
let answer = 'COMMIT';
let numbers = 0;

const say = line => process.stdout.write(`${JSON.stringify(line)}\n`);

function shown(view) {
  const { body } = view;
  return {
    body: body.length < 1000 ? body.toString() : null,
    size: body.length,
    md5: createHash('md5').update(body).digest('hex'),
    tag: view.tag ?? null,
    keys: [...view.keys].sort(),
    properties: Object.fromEntries(view.properties ?? []),
    message_id: view.messageId,
    attempt: view.deliveryAttempt,
    corrupted: view.corrupted,
  };
}

function base({ endpoint, access, secret, tls }) {
  const options = { endpoints: endpoint, namespace: '', sslEnabled: tls ?? false };
  if (access) options.sessionCredentials = { accessKey: access, accessSecret: secret };
  return options;
}

const consumer = command => ({
  ...base(command),
  consumerGroup: command.group,
  subscriptions: new Map([[command.topic, new FilterExpression(command.filter ?? '*', command.sql ? SQL : TAG)]]),
});

function message({ topic, body, size, tag, keys, properties, group, delay_ms }) {
  return {
    topic,
    body: size ? Buffer.alloc(size, 'x') : Buffer.from(body),
    tag,
    keys,
    properties: properties && new Map(Object.entries(properties)),
    messageGroup: group,
    deliveryTimestamp: delay_ms ? new Date(Date.now() + delay_ms) : undefined,
  };
}

const verbs = {
  async producer(command) {
    const checker = {
      async check(view) {
        say({ event: 'check', answer, ...shown(view) });
        return RESOLUTIONS[answer];
      },
    };
    const client = new Producer({ ...base(command), topics: command.topics, checker });
    clients.set(command.name, client);
    await client.startup();
  },
  async answer({ value }) {
    answer = value;
  },
  async send(command) {
    const receipt = await clients.get(command.producer).send(message(command));
    return { message_id: receipt.messageId, recall_handle: receipt.recallHandle };
  },
  async half(command) {
    const client = clients.get(command.producer);
    const transaction = client.beginTransaction();
    const receipt = await client.send(message(command), transaction);
    const tx = String(++numbers);
    transactions.set(tx, transaction);
    return { tx, message_id: receipt.messageId };
  },
  async end({ tx, resolution }) {
    const transaction = transactions.get(tx);
    await (resolution === 'COMMIT' ? transaction.commit() : transaction.rollback());
  },
  async recall({ producer, topic, handle }) {
    await clients.get(producer).recallMessage(topic, handle);
  },
  async simple(command) {
    const client = new SimpleConsumer({ ...consumer(command), awaitDuration: (command.await_s ?? 5) * 1000 });
    clients.set(command.name, client);
    await client.startup();
  },
  async receive(command) {
    const client = clients.get(command.consumer);
    const views = await client.receive(command.max, command.invisible_s * 1000);
    const messages = views.map(view => {
      const token = String(++numbers);
      deliveries.set(token, [client, view]);
      return { token, ...shown(view) };
    });
    return { messages };
  },
  async ack({ token }) {
    const [client, view] = deliveries.get(token);
    await client.ack(view);
  },
  async invisible({ token, seconds }) {
    const [client, view] = deliveries.get(token);
    await client.changeInvisibleDuration(view, seconds * 1000);
  },
  async push(command) {
    const failed = new Map();
    const messageListener = {
      async consume(view) {
        say({ event: 'message', consumer: command.name, ...shown(view) });
        await new Promise(done => setTimeout(done, (command.hold_s ?? 0) * 1000));
        const key = view.body.toString('latin1');
        failed.set(key, (failed.get(key) ?? 0) + 1);
        return failed.get(key) <= (command.fail ?? 0) ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
      },
    };
    const client = new PushConsumer({ ...consumer(command), messageListener });
    clients.set(command.name, client);
    await client.startup();
  },
  async close({ name }) {
    await clients.get(name).shutdown();
    clients.delete(name);
  },
};

createInterface({ input: process.stdin })
  .on('line', async line => {
    const { id, op, ...fields } = JSON.parse(line);
    try {
      say({ ...(await verbs[op](fields)), id });
    } catch (error) {
      say({ id, error: { type: error?.name ?? 'Error', text: `${error?.code ?? ''} ${error?.message ?? error}` } });
    }
  })
  .on('close', () => process.exit(0));
