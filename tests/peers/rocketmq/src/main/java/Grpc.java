import java.io.IOException;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/**
 * The RocketMQ 5 client, which speaks gRPC: with RocketMQ's proxy or with HalfMQ.
 *
 *   Grpc ENDPOINT BYTES WINDOW    see Load; the topics must be there
 */
public final class Grpc implements Load.Door {
    private static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();

    private final Producer producer;
    private final PushConsumer consumer;
    private final String topic;
    private final Load load;

    public static void main(String[] arguments) {
        Load.exitAfter(() -> {
            Load.lines(arguments, Grpc::new);
            return null;
        });
    }

    private Grpc(String endpoint, String topic, Load load) throws ClientException {
        this.topic = topic;
        this.load = load;
        ClientConfiguration configuration = ClientConfiguration.newBuilder()
            .setEndpoints(endpoint)
            .enableSsl(false)
            .setRequestTimeout(Duration.ofSeconds(30))
            .build();
        producer = PROVIDER.newProducerBuilder()
            .setClientConfiguration(configuration)
            .setTopics(topic)
            .setTransactionChecker(view -> {
                load.checked();
                return TransactionResolution.COMMIT;
            })
            .build();
        // Before the first message: a new group may begin at the end of the topic.
        consumer = PROVIDER.newPushConsumerBuilder()
            .setClientConfiguration(configuration)
            .setConsumerGroup("c-" + topic)
            .setSubscriptionExpressions(Map.of(topic, FilterExpression.SUB_ALL))
            .setMessageListener(view -> {
                load.arrived(List.of(view.getBody()));
                return ConsumeResult.SUCCESS;
            })
            .build();
    }

    @Override
    public boolean transaction(byte[] body, Runnable run) throws ClientException {
        Transaction transaction = producer.beginTransaction();
        producer.send(PROVIDER.newMessageBuilder().setTopic(topic).setBody(body).build(), transaction);
        run.run();
        try {
            transaction.commit();
        } catch (ClientException unheard) {
            // Once more as a new transaction would be twice; a check finds out about this one.
            load.failed();
        }
        return true;
    }

    /** Beside what comes next: the consumer waits until its last receive is over, which nothing comes for any more. */
    @Override
    public void close() throws IOException {
        producer.close();
        Thread leaving = new Thread(() -> {
            try {
                consumer.close();
            } catch (IOException failure) {
                failure.printStackTrace();
            }
        });
        leaving.setDaemon(true);
        leaving.start();
    }
}
