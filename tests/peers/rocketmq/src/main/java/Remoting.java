import java.nio.ByteBuffer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * RocketMQ's classic client, which speaks its remoting protocol with broker and name server.
 *
 *   Remoting NAMESRV BYTES WINDOW    see Load
 *   Remoting first NAMESRV           waits until a transactional send succeeds, prints when
 */
public final class Remoting implements Load.Door {
    private final TransactionMQProducer producer;
    private final DefaultMQPushConsumer consumer;
    private final String topic;
    private boolean consumes;

    public static void main(String[] arguments) {
        Load.exitAfter(() -> {
            if (arguments[0].equals("first")) {
                first(arguments[1]);
            } else {
                Load.lines(arguments, Remoting::new);
            }
            return null;
        });
    }

    private Remoting(String namesrv, String topic, Load load) throws Exception {
        this.topic = topic;
        producer = producer(namesrv, topic, load);
        producer.start();
        consumer = consumer(namesrv, topic, load);
    }

    @Override
    public boolean transaction(byte[] body, Runnable run) throws Exception {
        var result = producer.sendMessageInTransaction(new Message(topic, body), run);
        startConsumer();
        return result.getLocalTransactionState() == LocalTransactionState.COMMIT_MESSAGE;
    }

    /** After the first message, which makes the topic: it finds out about it when it starts, or half a minute later. */
    private synchronized void startConsumer() throws MQClientException {
        if (!consumes) {
            consumer.start();
            consumes = true;
        }
    }

    @Override
    public void close() {
        producer.shutdown();
        consumer.shutdown();
    }

    private static TransactionMQProducer producer(String namesrv, String group, Load load) {
        TransactionMQProducer producer = new TransactionMQProducer(group);
        producer.setNamesrvAddr(namesrv);
        producer.setSendMsgTimeout(30_000);
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message message, Object run) {
                ((Runnable) run).run();
                return LocalTransactionState.COMMIT_MESSAGE;
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt message) {
                load.checked();
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        return producer;
    }

    private static DefaultMQPushConsumer consumer(String namesrv, String topic, Load load) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("c-" + topic);
        consumer.setNamesrvAddr(namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.setPullBatchSize(64);
        consumer.setConsumeMessageBatchMaxSize(64);
        consumer.setConsumeThreadMin(2);
        consumer.setConsumeThreadMax(2);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            load.arrived(messages.stream().map(message -> ByteBuffer.wrap(message.getBody())).toList());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        return consumer;
    }

    private static void first(String namesrv) throws Exception {
        TransactionMQProducer producer = null;
        System.out.println("waiting");
        while (true) {
            try {
                if (producer == null) {
                    TransactionMQProducer fresh = producer(namesrv, "first", null);
                    fresh.start();
                    producer = fresh;
                }
                producer.sendMessageInTransaction(new Message("first", new byte[8]), (Runnable) () -> {});
                System.out.println(System.currentTimeMillis());
                return;
            } catch (Exception notYet) {
                Thread.sleep(10);
            }
        }
    }
}
