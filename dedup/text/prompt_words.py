"""Words with which prompts ask for repetition: English, Chinese, Japanese, German, French, Spanish.

The patterns match text that is folded (NFKC, casefold) and masked: a private-use character replaces
each quote (`QUOTE`). No pattern nests quantifiers, so that time is linear in a sentence's length.
"""

import re
from typing import Final, Literal

Kind = Literal["lyrics", "poem", "drill", "test_data"]


def _table(text: str) -> dict[str, int]:
    """Return the values of words, from "1:one uno;2:two dos"."""
    return {
        word: int(value)
        for value, _, words in (line.partition(":") for line in text.split(";"))
        for word in words.split()
    }


NUMERALS: Final = _table(
    "1:one ein eine einen un une uno una 一;2:two zwei deux dos couple 二 两 兩;"
    "3:three drei trois tres 三;4:four vier quatre cuatro 四;5:five fünf cinq cinco quin 五 几 数;"
    "6:six sechs seis 六;7:seven sieben sept siete sete 七;8:eight acht huit ocho 八;"
    "9:nine neun neuf nueve nove 九;10:ten zehn dix diez;11:eleven elf onze once;"
    "12:twelve zwölf douze doce;13:thirteen treize trece;14:fourteen quatorze catorce;"
    "15:fifteen quinze quince;16:sixteen sechzehn seize dieciséis;17:seventeen siebzehn;"
    "18:eighteen;19:nineteen;20:twenty zwanzig vingt vingts veinte veinti;30:thirty dreißig "
    "dreissig trente treinta;40:forty fourty vierzig quarante cuarenta;50:fifty fünfzig cinquante "
    "cincuenta;60:sixty sechzig soixante sesenta;70:seventy siebzig septante setenta;80:eighty "
    "achtzig quatre-vingt quatre-vingts ochenta;90:ninety neunzig nonante noventa;500:quinientos "
    "quinientas"
)
MULTIPLIERS: Final = _table(
    "10:十;12:dozen dutzend;100:hundred hundreds hundert cent cents cien ciento cientos cientas 百;"
    "1000:thousand thousands tausend mille mil 千;10000:万 萬"
)
HAN: Final = "一二两兩三四五六七八九十百千万萬几数"
WORDS: Final = "|".join(
    sorted(
        (word.casefold() for word in (*NUMERALS, *MULTIPLIERS) if word not in HAN),
        key=len,
        reverse=True,
    )
)
TOKEN: Final = re.compile(rf"\d+|[{HAN}]|{WORDS}")
VALUES: Final = {word.casefold(): value for word, value in NUMERALS.items()}
FACTORS: Final = {word.casefold(): value for word, value in MULTIPLIERS.items()}
JOIN: Final = r"[ -]?(?:and |und ?|y |et |of )?"
NUM: Final = (
    r"(?:(?<![\w.])\d{1,3}(?:[,.' ]\d{3})+(?!\d)|(?<![\d.])\d+ ?[百千万]?"
    rf"|(?<![{HAN}])[{HAN}]{{1,12}}|(?<!\w)(?!elf (?!mal)"
    rf"|once (?!veces))(?:an? )?(?:{WORDS})(?:{JOIN}(?:{WORDS})){{0,7}})"
)


def number(text: str) -> int:
    """Parse a number in digits, words or both; 0 if there is none."""
    total = last = 0
    for token in TOKEN.findall(re.sub(r"(?<=\d)[,.' ](?=\d{3})", "", text)):
        if factor := FACTORS.get(token):
            total += max(last, 1) * factor
            last = 0
        else:
            last += VALUES[token] if token in VALUES else int(token[:6])
    return total + last


FIRST_MASK: Final = 0xE000  # private use: one character replaces a quote
MAX_MASKS: Final = 0xF8FF - FIRST_MASK
_Q: Final = "[\ue000-\uf8ff]"
QUOTE: Final = re.compile(_Q)
FENCE: Final = re.compile(r"^```\w*\n")
MARKS: Final = " \n\t`\"'“”„«»「」『』《》‘’"
MASKED: Final = re.compile(
    r"```(?:.*?```|.*)|`[^`\n]+`|\"[^\"\n]{1,2000}\"|“[^“”]{1,2000}”|„[^„“”\n]{1,2000}[“”]"
    r"|«[^«»]{1,2000}»|「[^「」]{1,2000}」|『[^『』]{1,2000}』|《[^《》]{1,200}》|‘[^‘\n]{1,500}’(?!\w)"
    r"|'(?<!\w')(?=\S)(?:[^'\n]|(?<=\w)'(?=\w)){1,300}'(?!\w)|'(?<!\w')[^'\s]{1,60}'(?=s\b)",
    re.DOTALL,
)
CODE_LINE: Final = re.compile(
    r"[{}]\s*$|[a-z0-9_)\]}]\s*;\s*$|[a-z0-9_]\([^()\n]*\)[:;,]?\s*$|=>|==|&&|\|\||::|</?[a-z]"
    r"|\w [-+*]?= "
    r"|^\s*(?:(?:def|class|function|func|fn) \w+.*[:({]\s*$|(?:import|package|using) [\w.]+;?\s*$"
    r"|from \S+ import |(?:const|let|var) \w+ ?=|@\w+\s*$|#include|(?:for|while|if)\b.*[:{]\s*$"
    r"|select\b.* from |insert into |update \w+ set |delete from |create table |[$>#] ?\w+ -)"
)
# Every line of code contains one of these, which are cheaper to search for.
CODE_MARK: Final = re.compile("[{}()=&|:<>@#$;]")
CODE_WORDS: Final = (
    "import",
    "package",
    "using",
    "select",
    "insert into",
    "update",
    "delete from",
    "create table",
)

ASK: Final = re.compile(
    r"(?<![\w-])(?:write|print|spam|(?<=would )like|(?<=['’]d )like|"
    r"repeat(?:ed|ing)?(?! (?:(?:the|this|these|that|same|entire|whole) )*(?:process|steps?"
    r"|procedure|"
    r"exercises?|circuit|cycle|movement|set)\b)|say|type|output|copy|echo|sing|chant|recite"
    r"|display|"
    r"generate|produce|give|show|draw|paste|put|shout|reply|respond|return|list|make|create"
    r"|compose|"
    r"rewrite|continue|extend|turn|need|want|provide|draft|finish|fill|insert|count|spell|send|"
    r"keep|written|typed|printed|copied|"  # "ha repeated 300 times"
    r"schreib\w*|rappe?|wiederhol(?:e|en|t)?|kopiere?n?|druck(?:e|en)|gib|sage?|tipp(?:e|en)"
    r"|sing(?:e|en)|"
    r"zähle?n?|erstell\w*|erzeug\w*|generiere\w*|dichte|verfass\w*|brauche|"
    r"[eé]cri(?:s|vez|re)|r[eé]p[eè]tez?|r[eé]p[eé]te[rz]|(?:re)?copie[rz]?|imprime[rz]?"
    r"|affiche[rz]?|dis|"
    r"dites|tape[rz]?|chante[rz]?|compte[rz]?|compose[rz]?|g[eé]n[eè]re[rz]?|donne[rz]?"
    r"|cr[eé]e[rz]?|"
    r"fais|escrib(?:e|a|ir|eme|an)|escríbe(?:me|lo|la)|repit(?:e|a|an|elo)|repetir|copi(?:a|ar)|"
    r"imprim(?:a|ir)|di|dime|diga|teclea|cant(?:a|ar)|cuent(?:a|e)|contar|pon|muestra|gener(?:a"
    r"|ar)|"
    r"repitas|escribas|haz|dame|crea|compon)(?![\w(]|-(?!moi|le|la|nous))"
    r"|(?:写|抄|重复|复读|说(?!明|法)|念|打印|输出|打(?=[出上下\d一二两三四五六七八九十百千])|发送|唱|喊|复制|朗读|背诵|生成|显示|来(?!源|自)|给|想要"
    r"|创作|作(?=一?首)|编(?!程)|造|数(?=到|从)|读(?!取))(?!了|过|着)"
    r"|書(?:いて|け|く|き続け)|言(?:って|え)|繰り返(?:して|せ)|出力|表示|コピー|唱え(?!た)|打って|並べ(?!た|ま)"
    r"|入力し|印刷|数え(?:て|ろ)|カウント|作(?:って|詞)|歌(?:って|え)|生成|復唱|(?<!ないで)(?:ください|下さい)"
)
NEGATION: Final = re.compile(
    r"\b(?:not|never|without|avoid\w*|no|nor|cannot|stop|instead of|rather than|refrain|"
    r"nicht|niemals|nie|kein\w*|ohne|vermeide\w*|ne|n|jamais|sans|[eé]vite[rz]?|nunca|sin"
    r"|evita\w*)\b"
    r"|n[o']?['’]t\b|\bdont\b|\bn['’]|不(?![停断同少仅错久过如])|别|勿|避免|禁止|没|未|无需"
)
NEGATION_AFTER: Final = re.compile(r"\b(?:nicht|niemals|nie|kein\w*|pas)\b")
WISH: Final = re.compile(
    r"\bi(?: would like|['’]d like|(?: \w+)? (?:want|need))\b|\b(?:want|need|like|ask\w*"
    r"|tell) you\b|"
    r"\b(?:can|could|will|would) (?:you|we|i)\b|\bje (?:veux|voudrais)\b|\b(?:quiero"
    r"|necesito) que\b|\bich (?:möchte|will)\b"
)
TOLD: Final = re.compile(
    r"\b(?:how|why|if|when\w*|had|did|does|do i|tried|used|told|asked|forced|made|because|after"
    r"|until|"
    r"unless|who|which|that|i|he|she|it|they|we|people|is|was|were|been|has|warum|wie|wenn|dass"
    r"|er|sie|"
    r"comment|pourquoi|si|quand|qui|il|elle|cómo|por qué|cuando|que)\b|如何|怎么|怎样|为什么|如果|为何"
)
TOPIC: Final = re.compile(
    r"\b(?:who|that|which|where|whose|about|function|program\w*|script|story|essay|article|review|"
    r"failed|tried|happened|crashed|occurred|appeared|called|asked|visited|"
    r"welche\w*|programm|funktion|geschichte|skript|qui|programme|fonction|histoire|programa"
    r"|función|"
    r"historia)\b|[,;:] (?:it|i|he|she|they|we) "
    r"|关于|故事|循环|函数|程序|脚本|代码|文章|评论|[试失]了|失败|プログラム|関数|物語|について"
)
NOUN_BEFORE: Final = re.compile(
    r"\b(?:the|a|an|my|this|his|her|your|our|their|its|of|in|every|each|der|die|das|le|la|el|un"
    r"|une|"
    r"una|en|de) $"
)
PROGRAM: Final = re.compile(
    r"\b(?:function|program|script|code|programm|funktion|skript|schleife|programme|fonction"
    r"|boucle|"
    r"programa|función|bucle)\b|函数|程序|脚本|代码|循环|プログラム|関数"
)
AROUND: Final = re.compile(r"\b(?:exactly|about|at least|around|over|up to|sur|plus de|über)\s*$")
RATE: Final = re.compile(
    r"(?:每[天日周月年次个小]|[一1]天|[一1]日|毎[日週月]|週に|平均)[^,，。]{0,8}$"
)
AFTER_TIMES: Final = (
    r"(?! (?:(?:an?|per|each|every|the|as|more|less|fewer|par|pro|am|al|por|plus|más|out of"
    r"|in the) |"
    r"(?:daily|täglich|more|less|faster|slower|larger|bigger|smaller|shorter|cheaper|"
    r"stronger|lower|higher|longer|better|wider|older|in \d|so|que|mehr)\b|"
    r"\d))"
)
TIMES: Final = re.compile(
    rf"(?P<n>{NUM})(?: ?[+-])? ?(?:of )?(?:(?:separate |identical |exact |full )?(?:times|copies"
    rf"|copias|"
    rf"kopien|exemplaires|repetitions|wiederholungen|répétitions|repeticiones|mal|fois|veces"
    rf"|(?<=\d)x)\b"
    rf"{AFTER_TIMES}|遍|次(?!元|方|数)|回(?![答复复合归忆家来去帰目数])|份(?!额))|\b(?P<twice>twice|thrice)\b"
    rf"{AFTER_TIMES}"
)
LINES_OF: Final = r"(?:lines?|rows?|copies|times|words?|zeilen|lignes|líneas|filas|行|遍|次|回)"
MANY: Final = re.compile(
    rf"(?P<n>{NUM}) ?(?:x|×|\*|{LINES_OF}|个|個|only)? ?(?:of |the |de |d'|von |las? |の)*"
    rf"(?:(?:word|letter|character|phrase|sentence|emoji|wort|satz|mot|lettre|palabra|letra"
    rf"|frase)s? )?"
    rf"(?P<unit>{_Q})(?!(?:\w| [^\W\d]+s\b))"
    rf"|(?P<unit2>{_Q}) ?[x×*] ?(?P<n2>{NUM})"
    rf"|(?P<unit3>{_Q})[^,。.\d]{{0,6}}?(?P<n8>{NUM}) ?[个個]"
    rf"|(?P<n3>{NUM}) ?(?P<bare>[a-z](?=['’]s\b))"
    rf"|\b(?:print|output|type|say|echo|spam) (?P<n4>{NUM}) (?P<bare2>[^\W\d]{{1,12}}(?<!s))"
    rf"(?=$|[.,!;]| in a row| and nothing| without)"
    rf"|(?P<n5>{NUM}) ?[个個](?P<bare3>\w)字?(?=$|[,，。.!的、])"
    rf"|\b(?:row|line|string|sequence|series|wall|chain|reihe|ligne|rangée|fila|línea) (?:of|von"
    rf"|de) "
    rf"(?P<n6>{NUM})"
    rf"|(?P<n7>{NUM}) (?:stars|asterisks|dashes|hyphens|dots|zeros|zeroes|emojis?|hearts"
    rf"|underscores|"
    rf"exclamation (?:marks|points)|question marks|smileys|smiley faces|sternchen|étoiles"
    rf"|estrellas|corazones)\b"
)
NEXT_CLAUSE: Final = re.compile(r"[,;:(]|\b(?:and|und|et|y)\b")
CROSSED: Final = re.compile("[x×*]")
KANA: Final = re.compile("[\u3040-\u30ff]")
NAMED: Final = re.compile(
    r"\b(?:the|das|le|la) (?:word|letter|syllable|wort|mot|palabra|lettre|letra) (?P<unit>[^\W\d]+)"
)
NUMBERS: Final = re.compile(
    rf"\bcount(?:ing)?\b[^.,]{{0,24}}?(?:from {NUM} )?(?:to|till|until) (?P<n>{NUM})"
    rf"|\bnumbers\b[^.,]{{0,16}}?{NUM}(?: ?[-–] ?| (?:to|through|thru|until) )(?P<n2>{NUM})"
    rf"|(?:[从由]|数字){NUM}(?:开始)?(?:一直)?[数写列打印输出]*[到至](?P<n3>{NUM})|数到(?P<n4>{NUM})"
    rf"|{NUM}から(?P<n5>{NUM})まで"
    rf"|\bzähle?n?\b[^.,]{{0,24}}?bis (?:auf )?(?P<n6>{NUM})|\bzahlen von {NUM} bis (?P<n7>{NUM})"
    rf"|\bcompte[rz]?\b[^.,]{{0,24}}?(?:jusqu['’]?)?[àa] (?P<n8>{NUM})"
    rf"|\bnombres de {NUM} [àa] (?P<n9>{NUM})|\bn[úu]meros del? {NUM} al? (?P<n10>{NUM})"
    rf"|\b(?:cuent[ae]|contar)\b[^.,]{{0,24}}?(?:hasta|al?) (?P<n11>{NUM})"
)
OVER_AND_OVER: Final = re.compile(
    r"\bover and over\b|\bagain and again\b|\bforever\b|\bnon-?stop\b|\bendless(?:ly)?\b|"
    r"\binfinitely\b|\bas many times as\b|\bmany,? many times\b|"
    r"\bwithout stopping\b|\buntil i (?:say|tell)\b|\bimmer wieder\b|\bendlos\b|\bohne ende\b|"
    r"\ben boucle\b|\bsans (?:arrêt|fin|cesse)\b|\bencore et encore\b|\bà l['’]infini\b|"
    r"\buna y otra vez\b|\bsin parar\b|\bmuchas veces\b|\bpara siempre\b|\binfinitamente\b|"
    r"(?:一直|不停地?|不断地?|反复|无限次?|永远)(?:地|的)?(?=写|说|输出|打|重复|念|发|复读|喊|唱|抄|循环)|[很许]多[遍次]|何度も|ずっと|延々|永遠に|"
    rf"(?<=\bfill)\b[^.]{{0,40}}\bwith (?={_Q})"
)
REPEAT: Final = re.compile(
    r"(?<![\w-])(?:repeat|keep (?:repeating|saying|writing|printing|typing)|wiederhol(?:e|en)|"
    r"r[eé]p[eè]te[rz]?|repit(?:e|a|an)|repetir)(?![\w(-])(?! (?:(?:the|this|these|that|same) )*"
    r"(?:process|steps?|procedure|exercise|analysis|question|test|task|for|until|if|experiment"
    r"|no|nothing|any)\b)"
    rf"|重复(?=[说写输打念发以下这一上我:\s{_Q[1:-1]}])|复读|繰り返(?:して|せ)|復唱"
)
POLITE: Final = re.compile(
    r"\b(?:please|just|now|then|and|simply|only|you to|so|hey|ok|okay|always|bitte|und|dann"
    r"|por favor|y|et|"
    r"s['’]il (?:te|vous) pla[iî]t|puis)\b|[请你帮我再就并然后先给\W]|以下|この|次の|文章?|言葉|を|と"
)
ONCE: Final = re.compile(
    r"\bafter me\b|\bverbatim\b|\bword for word\b|\b(?:above|back)\b|\bwhat i (?:say|said)\b"
    r"|\bonce\b|"
    r"\bnach mir\b|\baprès moi\b|\bdespués de m[íi]\b|跟我|一遍|一次|復唱"
)
SONG: Final = (
    r"songs?|lyrics|chorus|refrain|ballad|hymn|lullaby|nursery rhyme|jingle|rap|chant"
    r"|mantra|"
    r"litany|outro|lied(?:text)?|chanson|paroles|comptine|canción"
    r"|letra|"
    r"estribillo|nana|lieder"
)
POEM: Final = r"poems?|gedicht|strophe|poème|poema|villanelle|ghazal|pantoum"
DRILL: Final = (
    r"(?:practice|drill) (?:sentences|lines|text)|handwriting (?:practice|sheet)"
    r"|typing (?:practice|"
    r"drills?)|copywork|penmanship|write lines|lines for detention|drills?|strafarbeit"
    r"|schreibübung\w*|"
    r"übungssätze|lignes de punition|exercices d['’]écriture|planas|caligrafía"
)
DATA: Final = (
    r"(?:test|dummy|mock|fake|seed|placeholder|filler|synthetic|sample) "
    r"(?:data|text|rows?|records?|content|paragraphs?|users?)|lorem ipsum|filler|testdaten"
    r"|blindtext|"
    r"fülltext|données (?:de test|fictives)|texte de remplissage|faux texte|datos de (?:prueba"
    r"|relleno)|"
    r"texto de relleno"
)
KINDS: Final[tuple[tuple[Kind, re.Pattern[str]], ...]] = (
    (
        "lyrics",
        re.compile(
            rf"\b(?:{SONG})\b|歌词|副歌|歌曲|[首支]歌|首.{{0,8}}[歌词]|儿歌|童谣|咒语|歌詞|作詞|の歌"
        ),
    ),
    ("poem", re.compile(rf"\b(?:{POEM})\b|首.{{0,8}}诗|詩")),
    ("drill", re.compile(rf"\b(?:{DRILL})\b|抄写|罚[抄写]|练字|跟读练习|书写练习|書き取り|練習文")),
    (
        "test_data",
        re.compile(
            rf"\b(?:{DATA})\b|测试(?:数据|文本)|假数据|填充文[本字]|占位|テストデータ|ダミー"
        ),
    ),
)
ROWS: Final = re.compile(
    rf"(?P<n>{NUM}) ?(?:rows?|lines?|records?|entries|paragraphs?|zeilen|zeichen|lignes|filas"
    rf"|líneas|"
    r"registros|条|行|件|段)"
)
# Work on a given text: the result repeats what the text repeats.
WORK: Final = re.compile(
    r"\b(?:translat\w*|summari[sz]e|proofread|clean(?: (?:it|this|that))? ?up|transcri\w+|rewrite|"
    r"paraphrase|rephrase|copy(?! editor)|correct|fix|explain|convert|edit|classify|analy[sz]e|"
    r"übersetz\w*|korrigier\w*|fasse|bereinig\w*|tradui\w*|corrige\w*|nettoie\w*|résume\w*"
    r"|recopie\w*|"
    r"traduc\w*|traduzc\w*|resum\w*|limpia\w*|transcrib\w*)(?![\w:])"
    r"|翻译|译成|翻成|总结|校对|润色|整理|清理|改写|转写|抄录|解释|翻訳|訳し|要約|校正|書き起こ|整形"
)
ABOVE: Final = re.compile(
    r"\b(?:above|previous|preceding|obigen?|oben|ci-dessus|anterior|de arriba)\b|上面|以上|上述|上の"
)
SAME_TEXT: Final = re.compile(
    r"\b(?:translat|proofread|clean|transcri|format|reformat|copy\b|verbatim|correct|ocr\b|"
    r"keep every word|rewrite|übersetz|korrigier|bereinig|abschreib|tradui|corrig|nettoie"
    r"|recopie|traduc|"
    r"traduzc|limpia|copia)|翻译|译成|翻成|校对|整理|清理|转写|抄录|抄写|复制|翻訳|訳し|校正|書き起こ|整形|原样"
)
# Requests for an earlier response, as it is or changed.
AGAIN: Final = re.compile(
    r"\b(?:write|send|give|show|print|say|type|post|paste|tell|read|list|return|output|repeat"
    r"|schreib\w*|zeig\w*|sag\w*|gib|schick\w*|"
    r"[eé]cri(?:s|vez|re)|donne[rz]?|montre[rz]?|envoie|escrib\w*|dame|muestra|env[ií]a"
    r"|repit\w*)\b[^.!?\n]{0,60}"
    r"\b(?:again|once more|one more time|noch ?(?:ein)?mal|erneut|encore une fois|de nouveau"
    r"|otra vez|de nuevo|una vez más)\b"
    r"|\b(?:re-?write|re-?send|re-?word|rephrase|revise|proofread|überarbeite\w*"
    r"|r[eé][eé]cri(?:s|vez|re)|reescrib\w*)\b"
    r"|\b(?:whole|full|entire|complete|updated|corrected|revised) "
    r"(?:version|letter|text|code|file|script|email|article|essay|story|poem|document|list"
    r"|answer|draft)\b"
    r"|再(?:写|发|说|给|念|输出|打印|来)(?:[我一遍次下份]|$)|重新?(?:写|发|说|输出|生成|给)|重复|修改|改写|改成|改为|润色"
    r"|完整(?:的|版|代码)|もう一度|再度|書き直|修正し"
)
OTHER_COLON: Final = re.compile(
    r"rule|format|require|condition|style|like this|要求|格式|规则|条件"
)
OTHER_KIND: Final = re.compile(
    r"\b(?:list|names?|playlist|essay|review|analysis|summary|article|email|blog|player|app"
    r"|website|"
    r"liste|namen|noms|nombres|lista)\b|歌单|歌名|分析|赏析|介绍"
)
KIND_FIRST: Final = re.compile(
    r"(?:(?:an?|some|short|long|sad|funny|catchy|ein|eine|un|une|una|please|the) ){0,3}"
)
KIND_GOES_ON: Final = re.compile(r" (?:about|to|of|for|in|with|über|sur|sobre|please)\b|$|[.,!:]")
# A sentence matches the patterns of a group only if it contains one of the group's hints. They are
# cheap to search for, and most texts have few.
_HINT_WORDS: Final = {
    "times": "times|twice|thrice|copies|copias|kopien|exemplaires|repetition|wiederholungen"
    "|répétition|"
    "repeticion|mal|fois|veces|0x|5x|遍|次|回|份",
    "many": "print|output|echo|row of|line of|string of|sequence of|series of|wall of|chain of"
    "|reihe von|"
    "rangée de|fila de|línea de|stars|asterisk|dashes|hyphens|dots|zero|emoji|hearts|underscores|"
    "exclamation|question mark|smiley|sternchen|étoiles|estrellas|corazones|个|個|a's|a’s|x's|x’s",
    "numbers": "count to|count from|数字|count up|count down|counting|count aloud|count out"
    "|numbers|从|由|数到|"
    "から|zähl|zahlen|compte|nombres|números|numeros|cuent|contar",
    "unnumbered": "repeat|keep |over and over|again and again|forever|nonstop|non-stop|endless"
    "|infinite|"
    "many times|without stopping|until i |immer wieder|endlos|ohne ende|wiederhol|en boucle|sans |"
    "encore et|infini|otra vez|sin parar|muchas veces|siempre|répèt|repèt|répet|repet|repit|fill"
    "|一直|"
    "不停|不断|反复|无限|永远|很多|许多|何度|ずっと|延々|永遠|重复|复读|繰り返|復唱",
    "kinds": "song|lyric|chorus|refrain|poem|ballad|hymn|lullaby|rhyme|jingle|rap|chant|mantra"
    "|litany|"
    "outro|lied|gedicht|strophe|chanson|paroles|poème|comptine|canción|letra|estribillo|nana"
    "|villanelle|"
    "ghazal|pantoum|歌|诗|詩|童谣|咒语|作詞|practice|drill|handwriting|typing|copywork|penmanship|"
    "write lines|lines for|strafarbeit|schreibübung|übungss|lignes de|exercices d|planas"
    "|caligraf|抄写|罚|"
    "练|書き取り|練習文|test |dummy|mock|fake|seed |placeholder|filler|synthetic|sample |lorem|testdaten|"
    "blindtext|fülltext|données|texte|datos|texto|测试|假数据|填充|占位|テスト|ダミー",
}
HINTS: Final = {group: tuple(hints.split("|")) for group, hints in _HINT_WORDS.items()}
# Hints that begin a word are looked up by its first characters; others are searched for.
# A translation table of ASCII text: lower-case letters stay, all else becomes a space.
LETTERS: Final = bytes(byte if chr(byte).islower() and byte < 128 else 32 for byte in range(256))
WORD_BEGIN: Final = re.compile("([a-zà-ÿ]{1,4})[a-zà-ÿ]*")
_WITHIN_WORDS: Final = frozenset(("mal", "fois", "rap"))  # "zehnmal", "rappen"
PREFIXED_HINTS: Final[dict[str, list[tuple[str, str]]]] = {}
OTHER_HINTS: Final[list[tuple[str, str]]] = []
for _group, _hints in HINTS.items():
    for _hint in _hints:
        if (_begin := WORD_BEGIN.match(_hint)) and _hint not in _WITHIN_WORDS:
            PREFIXED_HINTS.setdefault(_begin[1], []).append((_group, _hint))
        else:
            OTHER_HINTS.append((_group, _hint))
ASCII_OTHER_HINTS: Final = [(group, hint) for group, hint in OTHER_HINTS if hint.isascii()]
# Text that NFKC may change, and the character that it may be composed with.
TO_FOLD: Final = re.compile(
    ".?[^\x00-\x7f\u2018-\u201e\u3001-\u3020\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff]+", re.DOTALL
)
COLON: Final = re.compile(":(?!//)")
ANY_NUMBER: Final = re.compile(rf"[\d{HAN}]|\b(?:an? )?(?:{WORDS})|\btwice|\bthrice")
SENTENCE_END: Final = re.compile(r"[.!?](?=\s)|[!?](?=[^\x00-\x7f])|[。\n]")
CLAUSE_END: Final = re.compile(r"[,，、;:(]|\bbut\b|\band then\b|\binstead\b(?! of)")
