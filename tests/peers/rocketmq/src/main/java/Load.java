import java.nio.ByteBuffer;
import java.util.Arrays;
import java.util.BitSet;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * The load of `halfmq bench`, with RocketMQ's own client: so many transactions in flight, each prepared, run,
 * committed, received and acked; at most so many committed and not yet consumed.
 *
 *   Load first NAMESRV                        waits until a transactional send succeeds, prints when
 *   Load NAMESRV BYTES WINDOW                 then reads lines "TRANSACTIONS IN_FLIGHT" and prints one JSON each
 *
 * One JVM for all lines, so that it is warm.
 */
public final class Load {
    private static final long STALL_SECONDS = 90;

    private final int transactions;
    private final int inFlight;
    private final int bytes;
    private final int window;
    private final Semaphore room;
    private final AtomicInteger next = new AtomicInteger();
    private final AtomicLong checked = new AtomicLong();
    private final AtomicLong failed = new AtomicLong();
    private final AtomicLong twice = new AtomicLong();
    private final AtomicLong lastConsumed = new AtomicLong();
    private final long[] began;
    private final long[] prepared;
    private final long[] sent;
    private final long[] endToEnd;
    private final BitSet consumed = new BitSet();
    private final CountDownLatch allConsumed;

    private Load(int transactions, int inFlight, int bytes, int window) {
        this.transactions = transactions;
        this.inFlight = inFlight;
        this.bytes = bytes;
        this.window = Math.max(window, inFlight);
        this.room = new Semaphore(this.window);
        this.began = new long[transactions];
        this.prepared = new long[transactions];
        this.sent = new long[transactions];
        this.endToEnd = new long[transactions];
        this.allConsumed = new CountDownLatch(transactions);
    }

    public static void main(String[] arguments) {
        try {
            work(arguments);
            System.exit(0);
        } catch (Throwable failure) {
            // Threads of the client would keep the process alive.
            failure.printStackTrace();
            System.exit(1);
        }
    }

    private static void work(String[] arguments) throws Exception {
        if (arguments[0].equals("first")) {
            first(arguments[1]);
            return;
        }
        String namesrv = arguments[0];
        int bytes = Integer.parseInt(arguments[1]);
        int window = Integer.parseInt(arguments[2]);
        var input = new java.io.BufferedReader(new java.io.InputStreamReader(System.in));
        int number = 0;
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            String[] asked = line.trim().split(" ");
            Load load = new Load(Integer.parseInt(asked[0]), Integer.parseInt(asked[1]), bytes, window);
            // A topic of its own for each run, so that no earlier one reaches into it.
            System.out.println(load.run(namesrv, "load-" + System.nanoTime() + "-" + number++));
            System.out.flush();
        }
    }

    private static void first(String namesrv) throws Exception {
        TransactionMQProducer producer = null;
        System.out.println("waiting");
        while (true) {
            try {
                if (producer == null) {
                    TransactionMQProducer fresh = producer(namesrv, "first", new Commit());
                    fresh.start();
                    producer = fresh;
                }
                producer.sendMessageInTransaction(new Message("first", new byte[8]), null);
                System.out.println(System.currentTimeMillis());
                return;
            } catch (Exception notYet) {
                Thread.sleep(10);
            }
        }
    }

    private static TransactionMQProducer producer(String namesrv, String group, TransactionListener listener) {
        TransactionMQProducer producer = new TransactionMQProducer(group);
        producer.setNamesrvAddr(namesrv);
        producer.setTransactionListener(listener);
        producer.setSendMsgTimeout(30_000);
        return producer;
    }

    private static class Commit implements TransactionListener {
        @Override
        public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
            return LocalTransactionState.COMMIT_MESSAGE;
        }

        @Override
        public LocalTransactionState checkLocalTransaction(MessageExt message) {
            return LocalTransactionState.COMMIT_MESSAGE;
        }
    }

    private String run(String namesrv, String topic) throws Exception {
        TransactionMQProducer producer = producer(namesrv, topic, new Commit() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object argument) {
                int number = (Integer) argument;
                prepared[number] = System.nanoTime() - began[number];
                return LocalTransactionState.COMMIT_MESSAGE;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                checked.incrementAndGet();
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        producer.start();
        DefaultMQPushConsumer consumer = consumer(namesrv, topic);
        // The first message makes the topic, and the consumer finds out about it.
        untilSent(producer, new Message(topic, new byte[4]));
        consumer.start();
        awaitFirst();
        long start = System.nanoTime();
        Thread[] threads = new Thread[inFlight];
        for (int i = 0; i < inFlight; i++) {
            threads[i] = new Thread(() -> produce(producer, topic));
            threads[i].start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        long before = -1;
        while (!allConsumed.await(STALL_SECONDS, TimeUnit.SECONDS) && allConsumed.getCount() != before) {
            before = allConsumed.getCount();
        }
        String result = result(start);
        producer.shutdown();
        consumer.shutdown();
        return result;
    }

    /** A broker that has just started is not known to the name server at once. */
    private static void untilSent(TransactionMQProducer producer, Message message) throws Exception {
        for (int left = 600;; left--) {
            try {
                producer.sendMessageInTransaction(message, 0);
                return;
            } catch (Exception notYet) {
                if (left == 0) {
                    throw notYet;
                }
                Thread.sleep(100);
            }
        }
    }

    private final CountDownLatch firstConsumed = new CountDownLatch(1);

    private void awaitFirst() throws Exception {
        if (!firstConsumed.await(120, TimeUnit.SECONDS)) {
            throw new IllegalStateException("the first message never came");
        }
    }

    private DefaultMQPushConsumer consumer(String namesrv, String topic) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("c-" + topic);
        consumer.setNamesrvAddr(namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setPullBatchSize(64);
        consumer.setConsumeMessageBatchMaxSize(64);
        consumer.setConsumeThreadMin(2);
        consumer.setConsumeThreadMax(2);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            long now = System.nanoTime();
            int fresh = 0;
            for (MessageExt message : messages) {
                if (message.getBody().length == 4) {
                    firstConsumed.countDown();
                    continue;
                }
                int number = ByteBuffer.wrap(message.getBody()).getInt();
                synchronized (consumed) {
                    if (consumed.get(number)) {
                        twice.incrementAndGet();
                        continue;
                    }
                    consumed.set(number);
                }
                endToEnd[number] = now - began[number];
                fresh++;
                allConsumed.countDown();
            }
            lastConsumed.accumulateAndGet(now, Math::max);
            room.release(fresh);
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        return consumer;
    }

    private void produce(TransactionMQProducer producer, String topic) {
        while (true) {
            int number = next.getAndIncrement();
            if (number >= transactions) {
                return;
            }
            room.acquireUninterruptibly();
            byte[] body = new byte[Math.max(bytes, 5)];
            ByteBuffer.wrap(body).putInt(number);
            while (true) {
                try {
                    began[number] = System.nanoTime();
                    TransactionSendResult result =
                        producer.sendMessageInTransaction(new Message(topic, body), number);
                    sent[number] = System.nanoTime() - began[number];
                    if (result.getLocalTransactionState() == LocalTransactionState.COMMIT_MESSAGE) {
                        break;
                    }
                    failed.incrementAndGet();
                } catch (Exception refused) {
                    failed.incrementAndGet();
                }
            }
        }
    }

    private String result(long start) {
        double seconds = (lastConsumed.get() - start) / 1e9;
        int came;
        synchronized (consumed) {
            came = consumed.cardinality();
        }
        return String.format(
            java.util.Locale.ROOT,
            "{\"transactions\":%d,\"in_flight\":%d,\"seconds\":%.6f,\"transactions_per_second\":%.1f,"
                + "\"prepare_ms\":%s,\"send_ms\":%s,\"end_to_end_ms\":%s,\"missing\":%d,\"double\":%d,"
                + "\"checked\":%d,\"failed\":%d}",
            transactions, inFlight, seconds, came / seconds, quantiles(prepared), quantiles(sent),
            quantiles(endToEnd), transactions - came, twice.get(), checked.get(), failed.get());
    }

    private static String quantiles(long[] nanos) {
        long[] sorted = nanos.clone();
        Arrays.sort(sorted);
        double[] at = {0.5, 0.99, 0.999};
        StringBuilder text = new StringBuilder("{");
        String[] names = {"p50", "p99", "p99_9"};
        for (int i = 0; i < at.length; i++) {
            long value = sorted[(int) Math.min(sorted.length - 1, Math.ceil(at[i] * sorted.length))];
            text.append(String.format(java.util.Locale.ROOT, "%s\"%s\":%.3f", i == 0 ? "" : ",", names[i], value / 1e6));
        }
        return text.append("}").toString();
    }
}
