"""What a command tells people. How that went is counted, for who asks Prometheus."""

from mlops import measure
from mlops.config import NotificationSettings
from mlops.notify.channels import Delivery, deliver
from mlops.notify.message import Message


def tell(message: Message) -> Delivery:
    """Sends the message by the channels that the pod is told of. Raises nothing for one that does not take it."""
    delivery = deliver(message, NotificationSettings.from_environment())
    for channel in delivery.sent:
        measure.count("maestro_messages_sent_total", channel=channel)
    for channel in delivery.lost:
        measure.count("maestro_messages_lost_total", channel=channel)
    return delivery
